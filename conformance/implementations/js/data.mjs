/** Codes, scales and values: SPEC sections 3 to 5, step 24 of section 10. Data is read block by block. */

import { TernfmtError } from './errors.mjs';
import { DTYPE_BYTES } from './limits.mjs';
import { isScale, readFloat, writeFloat } from './floats.mjs';
import { codesName, downName, planesOf, rowBytes, scaleName, scalesPerRow, upName } from './structure.mjs';

/** Bytes read at a time; a multiple of every dtype's size. */
const BLOCK_BYTES = 2 ** 18;

/** @param {Uint8Array} bytes */
const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/**
 * Bytes `begin` up to `end` of a tensor's data.
 *
 * @param {import('./container.mjs').Tensor} tensor
 */
export function readData(tensor, begin, end) {
  return tensor.source.read(tensor.dataSection + tensor.begin + begin, end - begin);
}

/**
 * All bytes of a tensor in blocks, each with the offset of its first byte.
 *
 * @param {import('./container.mjs').Tensor} tensor
 */
export async function* readBlocks(tensor) {
  const bytes = tensor.end - tensor.begin;
  for (let offset = 0; offset < bytes; offset += BLOCK_BYTES) {
    yield { offset, bytes: await readData(tensor, offset, Math.min(offset + BLOCK_BYTES, bytes)) };
  }
}

/**
 * Step 24 for one ternary tensor: for each plane its scales, then its codes, then its padding. Tensors that a
 * shard lacks are passed over (S-7.2).
 *
 * @param {import('./structure.mjs').Parts} parts
 * @param {import('./metadata.mjs').Entry} entry
 */
export async function checkTensorData(parts, entry) {
  for (const p of planesOf(entry)) {
    const scale = parts.tensors.get(scaleName(entry.name, p));
    if (scale) await checkScales(scale);
    const codes = parts.tensors.get(codesName(entry.name, p));
    if (codes) await checkCodes(codes, entry);
  }
}

/** Step 24: S-4.2. */
async function checkScales(tensor) {
  const elementBytes = DTYPE_BYTES.get(tensor.dtype);
  const isGood = isScale[tensor.dtype];
  for await (const { offset, bytes } of readBlocks(tensor)) {
    const view = viewOf(bytes);
    for (let i = 0; i < bytes.length / elementBytes; i++) {
      if (!isGood(view, i)) {
        throw new TernfmtError('SCALE', `tensor ${tensor.name}, element ${offset / elementBytes + i}`,
          'is negative, infinite or NaN (S-4.2)');
      }
    }
  }
}

/** Step 24: S-3.2, then S-3.5. A CODE fault anywhere in the plane comes before a PADDING fault. */
async function checkCodes(tensor, entry) {
  let paddingFault = -1;
  for await (const { offset, bytes } of readBlocks(tensor)) {
    failOnForbiddenCode(bytes, offset, tensor, entry);
    if (paddingFault < 0) paddingFault = findPadding(bytes, offset, entry);
  }
  if (paddingFault >= 0) {
    throw new TernfmtError('PADDING', `tensor ${tensor.name}, row ${Math.floor(paddingFault / rowBytes(entry))}`,
      'an unused lane of the last byte is not 00 (S-3.5)');
  }
}

/** The bits of a row's last byte that hold codes: all, or those of K mod 4 lanes. */
const codeBitsOfLastByte = (K) => (K % 4 === 0 ? 0xff : 2 ** (2 * (K % 4)) - 1);

/** S-3.2: `10` in a code lane, that is bit 1 without bit 0. In pad lanes it is a matter of padding. */
function failOnForbiddenCode(bytes, offset, tensor, entry) {
  const width = rowBytes(entry);
  const lastByteBits = codeBitsOfLastByte(entry.K);
  let column = offset % width;
  for (let i = 0; i < bytes.length; i++) {
    const byte = column === width - 1 ? bytes[i] & lastByteBits : bytes[i];
    if ((byte >> 1) & ~byte & 0x55) {
      throw new TernfmtError('CODE', `tensor ${tensor.name}, row ${Math.floor((offset + i) / width)}, `
        + `columns from ${4 * column}`, `byte 0x${bytes[i].toString(16)} holds the code 10 (S-3.2)`);
    }
    column = column === width - 1 ? 0 : column + 1;
  }
}

/** S-3.5: the offset of the first byte with a pad lane that is not `00`, or -1. */
function findPadding(bytes, offset, entry) {
  const width = rowBytes(entry);
  const padBits = 0xff & ~codeBitsOfLastByte(entry.K);
  if (padBits === 0) return -1;
  for (let i = width - 1 - (offset % width); i < bytes.length; i += width) {
    if (bytes[i] & padBits) return offset + i;
  }
  return -1;
}

/** S-3.4: K codes from the bytes of one row. `10` has been refused; shifting up and down extends the sign. */
function unpackRow(rowOfBytes, K, out, outStart) {
  for (let k = 0; k < K; k++) {
    const code = rowOfBytes[k >> 2] >> (2 * (k & 3));
    out[outStart + k] = (code << 30) >> 30;
  }
}

/** Ranges of rows whose codes fill about a block. */
function* rowRanges(entry, firstRow, endRow) {
  const rows = Math.max(1, Math.floor(BLOCK_BYTES / rowBytes(entry)));
  for (let row = firstRow; row < endRow; row += rows) yield [row, Math.min(row + rows, endRow)];
}

/** The codes of rows `row` up to `end` of plane p, checked again as they are read (S-3.2, S-10.4). */
async function readCodes(parts, entry, p, row, end) {
  const tensor = parts.tensors.get(codesName(entry.name, p));
  const width = rowBytes(entry);
  const bytes = await readData(tensor, row * width, end * width);
  failOnForbiddenCode(bytes, row * width, tensor, entry);
  const codes = new Int8Array((end - row) * entry.K);
  for (let i = 0; i < end - row; i++) {
    unpackRow(bytes.subarray(i * width, (i + 1) * width), entry.K, codes, i * entry.K);
  }
  return codes;
}

/**
 * The codes of a plane, rows `firstRow` up to `endRow`, row-major, in blocks of whole rows.
 *
 * @returns {AsyncGenerator<Int8Array>}
 */
export async function* unpackBlocks(parts, entry, p, firstRow, endRow) {
  for (const [row, end] of rowRanges(entry, firstRow, endRow)) yield readCodes(parts, entry, p, row, end);
}

/**
 * The weights of a ternary tensor in the dtype (S-4.6), little-endian, row-major, in blocks of whole rows.
 *
 * @returns {AsyncGenerator<Uint8Array>}
 */
export async function* dequantizeBlocks(parts, entry, dtype) {
  const lowRank = entry.low_rank === null ? null : await openLowRank(parts, entry);
  for (const [row, end] of rowRanges(entry, 0, entry.N)) {
    // A Float32Array rounds whatever is stored in it to F32, to nearest even: that is each rounding of S-4.6.
    const weights = new Float32Array((end - row) * entry.K);
    for (const p of planesOf(entry)) await addPlane(parts, entry, p, row, end, weights);
    if (lowRank) await lowRank.add(row, end, weights);
    yield roundTo(dtype, weights);
  }
}

/** S-4.6: the first plane's products are stored, those of the others are added. */
async function addPlane(parts, entry, p, row, end, weights) {
  const { K } = entry;
  const codes = await readCodes(parts, entry, p, row, end);
  const scale = parts.tensors.get(scaleName(entry.name, p));
  const G = scalesPerRow(entry);
  const g = entry.group_size ?? K;
  const bytesPerRow = G * DTYPE_BYTES.get(scale.dtype);
  const view = viewOf(await readData(scale, row * bytesPerRow, end * bytesPerRow));
  for (let i = 0; i < end - row; i++) {
    for (let group = 0; group < G; group++) {
      const s = readFloat[scale.dtype](view, i * G + group);
      const endColumn = Math.min((group + 1) * g, K);
      for (let at = i * K + group * g; at < i * K + endColumn; at++) {
        const value = s * codes[at]; // exact
        weights[at] = p === 1 ? value : weights[at] + value;
      }
    }
  }
}

/** S-5.4, S-4.6: `up * down`, summed in order of r from the first product, then added to the weights. */
async function openLowRank(parts, { name, K, low_rank: R }) {
  const down = parts.tensors.get(downName(name));
  const up = parts.tensors.get(upName(name));
  const read = readFloat[down.dtype];
  const bytesPerRow = R * DTYPE_BYTES.get(up.dtype);
  const downView = viewOf(await readData(down, 0, down.end - down.begin));
  return {
    async add(row, end, weights) {
      const upView = viewOf(await readData(up, row * bytesPerRow, end * bytesPerRow));
      const sums = new Float32Array(K);
      for (let i = 0; i < end - row; i++) {
        for (let r = 0; r < R; r++) {
          const factor = read(upView, i * R + r);
          for (let k = 0; k < K; k++) {
            const value = Math.fround(factor * read(downView, r * K + k));
            sums[k] = r === 0 ? value : sums[k] + value;
          }
        }
        for (let k = 0; k < K; k++) weights[i * K + k] += sums[k];
      }
    },
  };
}

/** S-4.6: the one rounding to the target dtype. */
function roundTo(dtype, weights) {
  const bytes = new Uint8Array(weights.length * DTYPE_BYTES.get(dtype));
  const view = viewOf(bytes);
  const write = writeFloat[dtype];
  for (let i = 0; i < weights.length; i++) write(view, i, weights[i]);
  return bytes;
}
