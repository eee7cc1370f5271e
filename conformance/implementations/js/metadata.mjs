/** The metadata document: SPEC section 2, steps 12 to 20 of section 10. */

import { TernfmtError } from './errors.mjs';
import { JsonNumber, JsonObject, parseStrict } from './json.mjs';
import {
  FEATURES, FEATURE_OF_KEY, GROUP_MULTIPLE, INTEGER_MAX, K_MAX, PLANES_MAX, RANK_MAX, product,
} from './limits.mjs';

/**
 * @typedef {Object} Entry  what the document says of one ternary tensor (S-2.4)
 * @property {string} name         X
 * @property {number[]} shape      the logical shape
 * @property {number} N            rows: shape[0]
 * @property {number} K            columns: the product of the other dimensions
 * @property {number|null} group_size  g (S-5.2), null without groups
 * @property {number} planes       P (S-5.3), 1 without planes
 * @property {number|null} low_rank    R (S-5.4), null without a low-rank term
 * @property {JsonObject} json     the entry as written, ancillary keys included (S-2.5)
 */

/**
 * @typedef {Object} MetadataDocument
 * @property {string} version
 * @property {string[]} required
 * @property {Map<string, Entry>} entries
 * @property {Map<string, string>} tensorDigests  S-8.1
 * @property {string|null} headerDigest           S-8.2
 * @property {JsonObject} json                    the document as written (S-2.5)
 */

/**
 * Steps 12 to 20.
 *
 * @param {import('./container.mjs').Container} container
 * @returns {MetadataDocument}
 */
export function readMetadata(container) {
  const file = container.name;
  const json = readDocumentText(container);
  const version = readVersion(json, file);
  const required = readRequired(json, file);
  const document = readRest(json, file, version, required);
  checkFeaturesListed(document, file);
  return document;
}

/** Steps 12, 13 and 14: S-2.1, S-2.2. */
function readDocumentText({ name: file, metadata }) {
  if (metadata !== undefined) checkIsObjectOfStrings(metadata, file);
  const text = metadata?.get('ternfmt');
  if (text === undefined) {
    throw new TernfmtError('STRIPPED', file, '__metadata__ has no key ternfmt: not a ternfmt file, or a tool dropped '
      + 'the metadata; copy __metadata__ from the original file, or convert the model again (S-2.2)');
  }
  return parseStrict(text, `${file}: metadata document`, 'header');
}

function checkIsObjectOfStrings(metadata, file) {
  const isGood = metadata instanceof JsonObject
    && [...metadata.entries()].every(([, value]) => typeof value === 'string');
  if (!isGood) throw new TernfmtError('METADATA', file, '__metadata__ is not an object of strings (S-2.1)');
}

/** Steps 15 and 16: S-2.3, S-13.1. */
function readVersion(json, file) {
  const version = json.get('version');
  if (typeof version !== 'string' || !/^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$/.test(version)) {
    throw new TernfmtError('METADATA', `${file}: version`, 'is not of the form "major.minor" (S-2.3)');
  }
  if (!version.startsWith('1.')) throw new TernfmtError('VERSION', file, `version ${version} is not 1.x (S-13.1)`);
  return version;
}

/** Steps 17 and 18: S-2.3, S-5.1. */
function readRequired(json, file) {
  const required = json.get('required');
  const isGood = Array.isArray(required) && required.every((feature) => typeof feature === 'string')
    && new Set(required).size === required.length;
  if (!isGood) {
    throw new TernfmtError('METADATA', `${file}: required`, 'is not an array of distinct strings (S-2.3)');
  }
  const unknown = required.find((feature) => !FEATURES.includes(feature));
  if (unknown !== undefined) {
    throw new TernfmtError('FEATURE', file, `requires ${JSON.stringify(unknown)}, not implemented here (S-5.1)`);
  }
  return required;
}

/** Step 19: S-2.3, S-2.4, S-5.2 to S-5.4, S-8.1. */
function readRest(json, file, version, required) {
  const fail = (where, message) => {
    throw new TernfmtError('METADATA', `${file}: ${where}`, message);
  };
  checkNumbers(json, fail);
  const tensors = json.get('tensors');
  if (!(tensors instanceof JsonObject)) fail('tensors', 'is absent or not an object (S-2.3)');
  const entries = new Map();
  for (const [name, entry] of tensors.entries()) {
    entries.set(name, readEntry(name, entry, (message) => fail(`entry ${JSON.stringify(name)}`, message)));
  }
  const digests = readDigests(json.get('digests'), fail);
  return { version, required, entries, ...digests, json };
}

/** S-2.3: every number anywhere is an integer of magnitude at most INTEGER_MAX, never `-0`. */
function checkNumbers(value, fail) {
  if (value instanceof JsonNumber) fail('number', `${value.text} is not an integer of at most 2^53 - 1 (S-2.3)`);
  if (Array.isArray(value)) for (const element of value) checkNumbers(element, fail);
  if (value instanceof JsonObject) for (const [, member] of value.entries()) checkNumbers(member, fail);
}

/** The parser gives a JavaScript number for integers only. */
const isIntegerFrom = (low, high, value) => typeof value === 'number' && value >= low && value <= high;

/** S-2.4 and the keys of features: S-5.2 to S-5.4. @returns {Entry} */
function readEntry(name, json, fail) {
  if (!(json instanceof JsonObject)) fail('is not an object (S-2.4)');
  const shape = json.get('shape');
  const isShape = Array.isArray(shape) && shape.length >= 2 && shape.length <= RANK_MAX
    && shape.every((dimension) => isIntegerFrom(1, INTEGER_MAX, dimension));
  if (!isShape) fail(`shape is not 2 to ${RANK_MAX} integers >= 1 (S-2.4)`);
  if (json.get('encoding') !== 'int2') fail('encoding is not "int2" (S-2.4)');
  if (product(shape) > INTEGER_MAX) fail('N * K passes 2^53 - 1 (S-2.4)');
  const N = shape[0];
  const K = product(shape.slice(1));
  if (K > K_MAX) fail(`K = ${K} passes K_MAX (S-2.4)`);

  const group_size = json.get('group_size');
  if (group_size !== undefined && !(isIntegerFrom(1, K_MAX, group_size) && group_size % GROUP_MULTIPLE === 0)) {
    fail(`group_size is not a multiple of ${GROUP_MULTIPLE} from 1 to K_MAX (S-5.2)`);
  }
  const planes = json.get('planes');
  if (planes !== undefined && !isIntegerFrom(2, PLANES_MAX, planes)) fail(`planes is not 2 to ${PLANES_MAX} (S-5.3)`);
  const low_rank = json.get('low_rank');
  if (low_rank !== undefined && !isIntegerFrom(1, K, low_rank)) fail('low_rank is not 1 to K (S-5.4)');
  return { name, shape, N, K, group_size: group_size ?? null, planes: planes ?? 1, low_rank: low_rank ?? null, json };
}

const isDigest = (value) => typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);

/** S-8.1. */
function readDigests(json, fail) {
  const tensorDigests = new Map();
  if (json === undefined) return { tensorDigests, headerDigest: null };
  if (!(json instanceof JsonObject)) fail('digests', 'is not an object (S-8.1)');
  const tensors = json.get('tensors');
  if (tensors !== undefined && !(tensors instanceof JsonObject)) fail('digests.tensors', 'is not an object (S-8.1)');
  for (const [name, digest] of tensors?.entries() ?? []) {
    if (!isDigest(digest)) fail(`digest of ${JSON.stringify(name)}`, 'is not 64 lower-case hex digits (S-8.1)');
    tensorDigests.set(name, digest);
  }
  const headerDigest = json.get('header');
  if (headerDigest !== undefined && !isDigest(headerDigest)) {
    fail('digests.header', 'is not 64 lower-case hex digits (S-8.1)');
  }
  return { tensorDigests, headerDigest: headerDigest ?? null };
}

/** Step 20: S-5.1. */
function checkFeaturesListed({ entries, required }, file) {
  for (const { name, json } of entries.values()) {
    for (const [key, feature] of FEATURE_OF_KEY) {
      if (json.get(key) !== undefined && !required.includes(feature)) {
        throw new TernfmtError('FEATURE', `${file}: entry ${JSON.stringify(name)}`,
          `uses ${key}, but required does not list ${feature} (S-5.1)`);
      }
    }
  }
}
