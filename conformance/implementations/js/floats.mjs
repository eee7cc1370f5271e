/** F16, BF16 and F32: exact widening and rounding to nearest, ties to even (S-4.6). */

const scratch = new DataView(new ArrayBuffer(4));

function bitsOfF32(value) {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

function f32OfBits(bits) {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}

/** @param {number} bits 16 bits @returns {number} exact */
export function f16ToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (0x400 + fraction) * 2 ** (exponent - 25);
}

/** @param {number} bits 16 bits @returns {number} exact */
export function bf16ToNumber(bits) {
  return f32OfBits(bits << 16);
}

/** Drops the low `count` bits of an integer from 0 to 2^31 - 1, rounding to nearest even. */
function roundShift(integer, count) {
  const half = 1 << (count - 1);
  const quotient = integer >>> count;
  const rest = integer & ((1 << count) - 1);
  return quotient + (rest > half || (rest === half && (quotient & 1)) ? 1 : 0);
}

/** @param {number} value an F32 value @returns {number} 16 bits */
export function f16FromF32(value) {
  if (Number.isNaN(value)) return 0x7e00;
  const bits = bitsOfF32(value);
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 127;
  const significand = 0x800000 + (bits & 0x7fffff); // 1.fraction, in units of 2^(exponent - 23)
  if (exponent > 15) return sign | 0x7c00; // 2^16 and above, infinity included
  // A carry out of the fraction steps the exponent, from subnormal to normal and from 65520 to infinity alike.
  if (exponent >= -14) return sign | (((exponent + 14) << 10) + roundShift(significand, 13));
  if (exponent >= -25) return sign | roundShift(significand, -1 - exponent); // in units of 2^-24
  return sign;
}

/** @param {number} value an F32 value @returns {number} 16 bits */
export function bf16FromF32(value) {
  if (Number.isNaN(value)) return 0x7fc0;
  const bits = bitsOfF32(value);
  return ((bits >>> 31) << 15) | roundShift(bits & 0x7fffffff, 16);
}

let f16Values = null;

/** @param {number} bits 16 bits @returns {number} f16ToNumber from a table */
function f16FromTable(bits) {
  f16Values ??= Float32Array.from({ length: 0x10000 }, (_, i) => f16ToNumber(i));
  return f16Values[bits];
}

/**
 * Reads element `index` of little-endian floats.
 *
 * @type {Record<string, (view: DataView, index: number) => number>}
 */
export const readFloat = {
  F32: (view, index) => view.getFloat32(4 * index, true),
  F16: (view, index) => f16FromTable(view.getUint16(2 * index, true)),
  BF16: (view, index) => bf16ToNumber(view.getUint16(2 * index, true)),
};

/**
 * Rounds an F32 value once to the dtype and writes it as element `index`, little-endian. NaN is written as the
 * positive quiet NaN without payload.
 *
 * @type {Record<string, (view: DataView, index: number, value: number) => void>}
 */
export const writeFloat = {
  F32: (view, index, value) => {
    if (Number.isNaN(value)) view.setUint32(4 * index, 0x7fc00000, true);
    else view.setFloat32(4 * index, value, true);
  },
  F16: (view, index, value) => view.setUint16(2 * index, f16FromF32(value), true),
  BF16: (view, index, value) => view.setUint16(2 * index, bf16FromF32(value), true),
};

/**
 * S-4.2: finite, with its sign bit clear: all exponent bits set means not finite.
 *
 * @type {Record<string, (view: DataView, index: number) => boolean>}
 */
export const isScale = {
  F32: (view, index) => view.getUint32(4 * index, true) < 0x7f800000,
  F16: (view, index) => view.getUint16(2 * index, true) < 0x7c00,
  BF16: (view, index) => view.getUint16(2 * index, true) < 0x7f80,
};
