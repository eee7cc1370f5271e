/** Limits of SPEC section 9, the dtype table of S-1.9 and the features of section 5. */

export const HEADER_MAX = 2 ** 25;
export const DEPTH_MAX = 32;
export const NUMBER_CHARS_MAX = 32;
export const INTEGER_MAX = 2 ** 53 - 1;
export const RANK_MAX = 32;
export const NAME_MAX = 255;
export const K_MAX = 2 ** 24 - 1;
export const PLANES_MAX = 4;
export const GROUP_MULTIPLE = 16;

/** S-1.9: bytes of one element, by dtype. */
export const DTYPE_BYTES = new Map([
  ['BOOL', 1], ['U8', 1], ['I8', 1], ['F8_E4M3', 1], ['F8_E5M2', 1], ['F8_E8M0', 1],
  ['U16', 2], ['I16', 2], ['F16', 2], ['BF16', 2],
  ['U32', 4], ['I32', 4], ['F32', 4],
  ['U64', 8], ['I64', 8], ['F64', 8], ['C64', 8],
]);

/** S-4.1, S-5.4: the dtypes of scales and of low-rank factors. */
export const FLOAT_DTYPES = ['F32', 'F16', 'BF16'];

/** Section 5: the features this reader implements, by the entry's key that uses them. */
export const FEATURE_OF_KEY = new Map([
  ['group_size', 'group-scale'], ['planes', 'planes'], ['low_rank', 'low-rank'],
]);
export const FEATURES = [...FEATURE_OF_KEY.values()].sort();

/**
 * The product of integers of at most INTEGER_MAX. Where the true product passes INTEGER_MAX, so does the
 * result: rounding to double never brings 2^53 or more back below 2^53, as all factors are at least 1.
 *
 * @param {number[]} factors  no zeros, or the result is simply 0
 * @returns {number}
 */
export function product(factors) {
  return factors.reduce((result, factor) => result * factor, 1);
}

/**
 * S-10.5: order of names and keys by Unicode code point. JavaScript's own `<` compares UTF-16 units.
 *
 * @param {string} a
 * @param {string} b
 * @returns {number} negative, 0 or positive
 */
export function compareCodePoints(a, b) {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    if (a.charCodeAt(i) !== b.charCodeAt(i)) return a.codePointAt(i) - b.codePointAt(i);
  }
  return a.length - b.length;
}
