/**
 * Errors of SPEC section 10. Only `class` is normative; `location` and the message are for people.
 *
 * Anything else that is thrown (no such file, no permission, a wrong argument) is not a format error (S-10.6).
 */

/**
 * @typedef {'PREFIX'|'HEADER_LEN'|'ENCODING'|'JSON'|'DUPLICATE'|'NAME'|'TENSOR_INFO'|'OVERFLOW'|'LAYOUT'|'SIZE'|
 *   'METADATA'|'STRIPPED'|'VERSION'|'FEATURE'|'SCALE'|'CODE'|'PADDING'|'DIGEST'|'INDEX'|'PATH'|'CONFIG'} ErrorClass
 */

export class TernfmtError extends Error {
  /**
   * @param {ErrorClass} errorClass
   * @param {string} location  file, tensor, row, column, byte: whatever is known
   * @param {string} message   what is wrong there
   */
  constructor(errorClass, location, message) {
    super(`${errorClass}: ${location}: ${message}`);
    this.name = 'TernfmtError';
    /** @type {ErrorClass} */
    this.class = errorClass;
    this.location = location;
  }
}
