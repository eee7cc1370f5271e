/** The container: SPEC section 1, steps 1 to 11 of section 10. */

import { TernfmtError } from './errors.mjs';
import { DTYPE_BYTES, HEADER_MAX, INTEGER_MAX, NAME_MAX, RANK_MAX, product } from './limits.mjs';
import { JsonNumber, JsonObject, decodeUtf8, parseStrict } from './json.mjs';

/**
 * Where the bytes of one file come from. `read` returns exactly `length` bytes, or throws.
 *
 * @typedef {Object} Source
 * @property {number} size
 * @property {(offset: number, length: number) => Uint8Array | Promise<Uint8Array>} read
 */

/**
 * @typedef {Object} Tensor  one tensor of the container
 * @property {string} name
 * @property {string} dtype
 * @property {number[]} shape
 * @property {number} begin        S-1.11: counted from the first byte after the header
 * @property {number} end
 * @property {Source} source       the file that holds it
 * @property {number} dataSection  offset of the data section in that file: 8 + H
 */

/**
 * @typedef {Object} Container
 * @property {string} name
 * @property {Map<string, Tensor>} tensors
 * @property {any} metadata  the JSON value of `__metadata__`, or undefined
 */

/**
 * Steps 1 to 11.
 *
 * @param {Source} source
 * @param {string} name  of the file, for messages
 * @returns {Promise<Container>}
 */
export async function readContainer(source, name) {
  const H = await readHeaderLength(source, name);
  const text = decodeUtf8(await source.read(8, H), `${name}: header`);
  const header = parseStrict(text, `${name}: header`, 'header');
  checkNames(header, name);
  checkTensorInfos(header, name);
  checkOverflow(header, name);
  const tensors = makeTensors(header, source, 8 + H);
  checkLayout(tensors, source.size - 8 - H, name);
  checkSizes(tensors, name);
  return { name, tensors, metadata: header.get('__metadata__') };
}

/** Steps 1 and 2: S-1.1, S-1.2. The length is compared before anything is allocated. */
async function readHeaderLength(source, name) {
  if (source.size < 8) throw new TernfmtError('PREFIX', name, 'has fewer than 8 bytes (S-1.1)');
  const prefix = await source.read(0, 8);
  const H = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (H === 0n || H > BigInt(HEADER_MAX) || H > BigInt(source.size - 8)) {
    throw new TernfmtError('HEADER_LEN', name, `header length ${H} in a file of ${source.size} bytes (S-1.2)`);
  }
  return Number(H);
}

/** The members of the header that are tensors: all but `__metadata__` (S-1.7). */
function* tensorMembers(header) {
  for (const member of header.entries()) {
    if (member[0] !== '__metadata__') yield member;
  }
}

/**
 * S-1.7: 1 to NAME_MAX bytes, each 0x21-0x7E.
 *
 * @param {string} name
 * @returns {boolean}
 */
export function isTensorName(name) {
  return name.length >= 1 && name.length <= NAME_MAX && /^[\x21-\x7e]*$/.test(name);
}

/** Step 7: S-1.7. */
function checkNames(header, file) {
  for (const [name] of tensorMembers(header)) {
    if (!isTensorName(name)) {
      throw new TernfmtError('NAME', `${file}: tensor ${JSON.stringify(name.slice(0, 300))}`,
        'a tensor name is 1 to 255 bytes, each 0x21-0x7E (S-1.7)');
    }
  }
}

/** S-1.8: an integer written as digits alone; whether it is too large is asked at step 9. */
function isDigits(value) {
  if (value instanceof JsonNumber) return /^[0-9]+$/.test(value.text);
  return typeof value === 'number' && value >= 0;
}

/** Step 8: S-1.8, S-1.9. */
function checkTensorInfos(header, file) {
  for (const [name, info] of tensorMembers(header)) {
    const fault = faultOfTensorInfo(info);
    if (fault) throw new TernfmtError('TENSOR_INFO', `${file}: tensor ${name}`, `${fault} (S-1.8, S-1.9)`);
  }
}

/** @returns {string|null} */
function faultOfTensorInfo(info) {
  const isComplete = info instanceof JsonObject && info.members.length === 6
    && ['dtype', 'shape', 'data_offsets'].every((key) => info.get(key) !== undefined);
  if (!isComplete) return 'its value is not an object with exactly the keys dtype, shape and data_offsets';
  if (!DTYPE_BYTES.has(info.get('dtype'))) return 'unknown dtype';
  const shape = info.get('shape');
  if (!Array.isArray(shape) || shape.length > RANK_MAX) return `shape is not an array of at most ${RANK_MAX}`;
  if (!shape.every(isDigits)) return 'a dimension is not written as digits alone';
  const offsets = info.get('data_offsets');
  if (!Array.isArray(offsets) || offsets.length !== 2) return 'data_offsets is not an array of two';
  if (!offsets.every(isDigits)) return 'an offset is not written as digits alone';
  return null;
}

/** Step 9: S-1.10. Zero dimensions are left out, so that their place does not matter. */
function checkOverflow(header, file) {
  for (const [name, info] of tensorMembers(header)) {
    const integers = [...info.get('shape'), ...info.get('data_offsets')];
    const fail = (message) => {
      throw new TernfmtError('OVERFLOW', `${file}: tensor ${name}`, `${message} (S-1.10)`);
    };
    if (integers.some((integer) => integer instanceof JsonNumber)) fail('an integer passes 2^53 - 1');
    const nonZero = info.get('shape').filter((dimension) => dimension !== 0);
    const bytes = product(nonZero) * DTYPE_BYTES.get(info.get('dtype'));
    if (bytes > INTEGER_MAX) fail('the product of the dimensions and the dtype\'s bytes passes 2^53 - 1');
  }
}

/** @returns {Map<string, Tensor>} */
function makeTensors(header, source, dataSection) {
  const tensors = new Map();
  for (const [name, info] of tensorMembers(header)) {
    const [begin, end] = info.get('data_offsets');
    tensors.set(name, { name, dtype: info.get('dtype'), shape: info.get('shape'), begin, end, source, dataSection });
  }
  return tensors;
}

/** Step 10: S-1.11, S-1.12. */
function checkLayout(tensors, dataBytes, file) {
  const fail = (name, message) => {
    throw new TernfmtError('LAYOUT', `${file}: tensor ${name}`, message);
  };
  const sorted = [...tensors.values()].sort((a, b) => a.begin - b.begin || a.end - b.end);
  let position = 0;
  for (const { name, dtype, begin, end, dataSection } of sorted) {
    if (begin > end) fail(name, 'begins after its end (S-1.11)');
    if (begin !== position) fail(name, `begins at ${begin}, expected ${position} (S-1.11)`);
    if ((dataSection + begin) % DTYPE_BYTES.get(dtype) !== 0) fail(name, 'is misaligned (S-1.12)');
    position = end;
  }
  if (position !== dataBytes) {
    throw new TernfmtError('LAYOUT', file, `tensors take ${position} of ${dataBytes} data bytes (S-1.11)`);
  }
}

/** Step 11: S-1.13. */
function checkSizes(tensors, file) {
  for (const { name, dtype, shape, begin, end } of tensors.values()) {
    const expected = product(shape) * DTYPE_BYTES.get(dtype);
    if (end - begin !== expected) {
      throw new TernfmtError('SIZE', `${file}: tensor ${name}`,
        `has ${end - begin} bytes, its shape and dtype say ${expected} (S-1.13)`);
    }
  }
}
