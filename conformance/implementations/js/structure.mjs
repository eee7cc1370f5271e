/**
 * Which tensors a document calls for, and whether they are there: SPEC sections 3 to 6, steps 21 to 23 of
 * section 10. The checks run over one file, or over the union of all shards (S-10.2).
 */

import { TernfmtError } from './errors.mjs';
import { FLOAT_DTYPES, PLANES_MAX } from './limits.mjs';
import { isTensorName } from './container.mjs';

/**
 * @typedef {Object} Parts
 * @property {string} name  of the file, index or folder, for messages
 * @property {boolean} isWhole  false: read as a shard, tensors that are described but absent are ignored (S-7.2)
 * @property {Map<string, import('./container.mjs').Tensor>} tensors
 * @property {Map<string, import('./metadata.mjs').Entry>} entries
 * @property {Map<string, string>} tensorDigests
 */

/** S-5.3: the name of the codes of plane p, counted from 1. */
export const codesName = (X, p) => (p === 1 ? X : `${X}_plane${p}`);

/** S-4.1, S-5.3: the name of the scales of plane p. */
export const scaleName = (X, p) => `${codesName(X, p)}_scale`;

/** S-5.4: the names of the low-rank factors. */
export const downName = (X) => `${X}_lowrank_down`;
export const upName = (X) => `${X}_lowrank_up`;

/** S-3.3: bytes of one row of codes. */
export const rowBytes = (entry) => Math.ceil(entry.K / 4);

/** S-5.2: scales of one row: G, or 1 without groups. */
export const scalesPerRow = (entry) => (entry.group_size === null ? 1 : Math.ceil(entry.K / entry.group_size));

/** The planes of an entry: 1, 2, ... P. */
export const planesOf = (entry) => Array.from({ length: entry.planes }, (_, i) => i + 1);

/** S-6.1: all derived names of X, used or not. */
function derivedNames(X) {
  const names = [downName(X), upName(X)];
  for (let p = 1; p <= PLANES_MAX; p++) names.push(scaleName(X, p), codesName(X, p));
  return names.filter((name) => name !== X);
}

/**
 * The derived names that an entry calls for.
 *
 * @param {import('./metadata.mjs').Entry} entry
 * @returns {string[]}
 */
export function calledForNames(entry) {
  const names = planesOf(entry).flatMap((p) => [codesName(entry.name, p), scaleName(entry.name, p)]);
  if (entry.low_rank !== null) names.push(downName(entry.name), upName(entry.name));
  return names.filter((name) => name !== entry.name);
}

/**
 * Steps 21, 22 and 23.
 *
 * @param {Parts} parts
 */
export function checkStructure(parts) {
  checkDerivedNames(parts);
  for (const entry of parts.entries.values()) {
    checkCodesTensors(parts, entry);
    checkLowRankTensors(parts, entry);
  }
  checkDigestNames(parts);
  checkUndeclared(parts);
  for (const entry of parts.entries.values()) checkScaleTensors(parts, entry);
}

/** Step 21: S-6.1, S-6.2. */
function checkDerivedNames({ name: file, tensors, entries }) {
  for (const entry of entries.values()) {
    const fail = (name, message) => {
      throw new TernfmtError('NAME', `${file}: ${JSON.stringify(name.slice(0, 300))}`, message);
    };
    const calledFor = calledForNames(entry);
    for (const name of [entry.name, ...calledFor]) {
      if (!isTensorName(name)) fail(name, 'is not 1 to 255 bytes, each 0x21-0x7E (S-6.2)');
    }
    for (const name of derivedNames(entry.name)) {
      if (entries.has(name)) fail(name, `is declared, but is a derived name of ${entry.name} (S-6.1)`);
      if (tensors.has(name) && !calledFor.includes(name)) {
        fail(name, `is present, but the entry of ${entry.name} does not call for it (S-6.1)`);
      }
    }
  }
}

/**
 * A tensor that must be there, of one of these dtypes and this shape; undefined where a shard may lack it.
 *
 * @param {import('./errors.mjs').ErrorClass} errorClass
 */
function expectTensor(parts, name, dtypes, shape, errorClass) {
  const tensor = parts.tensors.get(name);
  const fail = (message) => {
    throw new TernfmtError(errorClass, `${parts.name}: tensor ${name}`, message);
  };
  if (tensor === undefined) {
    if (parts.isWhole) fail('is absent');
    return undefined;
  }
  if (!dtypes.includes(tensor.dtype)) fail(`has dtype ${tensor.dtype}, expected ${dtypes.join(' or ')}`);
  if (tensor.shape.join() !== shape.join()) fail(`has shape [${tensor.shape}], expected [${shape}]`);
  return tensor;
}

/** Step 22: S-3.3, S-5.3. */
function checkCodesTensors(parts, entry) {
  for (const p of planesOf(entry)) {
    expectTensor(parts, codesName(entry.name, p), ['U8'], [entry.N, rowBytes(entry)], 'METADATA');
  }
}

/** Step 22: S-5.4. */
function checkLowRankTensors(parts, { name, N, K, low_rank: R }) {
  if (R === null) return;
  const down = expectTensor(parts, downName(name), FLOAT_DTYPES, [R, K], 'METADATA');
  expectTensor(parts, upName(name), down ? [down.dtype] : FLOAT_DTYPES, [N, R], 'METADATA');
}

/** Step 22: S-8.4. */
function checkDigestNames({ name: file, isWhole, tensors, tensorDigests }) {
  if (!isWhole) return;
  for (const name of tensorDigests.keys()) {
    if (!tensors.has(name)) {
      throw new TernfmtError('METADATA', `${file}: digest of ${JSON.stringify(name)}`, 'names no tensor (S-8.4)');
    }
  }
}

/** Step 22: S-6.3. Planes of a declared tensor have the same look and are no fault. */
function checkUndeclared({ name: file, tensors, entries }) {
  const known = new Set([...entries.keys(), ...[...entries.values()].flatMap(calledForNames)]);
  for (const { name, dtype, shape } of tensors.values()) {
    if (dtype !== 'U8' || shape.length !== 2 || known.has(name)) continue;
    const scale = tensors.get(`${name}_scale`);
    if (scale && FLOAT_DTYPES.includes(scale.dtype) && scale.shape[0] === shape[0]) {
      throw new TernfmtError('METADATA', `${file}: tensor ${name}`,
        'looks like a ternary tensor (U8 of rank 2 beside a scale), but is not declared (S-6.3)');
    }
  }
}

/** Step 23: S-4.1, S-5.2, S-5.3. All scales of a tensor have one dtype. */
function checkScaleTensors(parts, entry) {
  const shape = entry.group_size === null ? [entry.N] : [entry.N, scalesPerRow(entry)];
  let dtypes = FLOAT_DTYPES;
  for (const p of planesOf(entry)) {
    const scale = expectTensor(parts, scaleName(entry.name, p), dtypes, shape, 'SCALE');
    if (scale) dtypes = [scale.dtype];
  }
}
