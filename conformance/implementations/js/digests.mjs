/** Digests: SPEC section 8, step 25 of section 10. */

import { TernfmtError } from './errors.mjs';
import { JsonObject, writeCanonical } from './json.mjs';
import { compareCodePoints } from './limits.mjs';
import { readBlocks } from './data.mjs';
import { Sha256 } from './sha256.mjs';

/**
 * S-8.1: the digest of the bytes of a tensor's data.
 *
 * @param {import('./container.mjs').Tensor} tensor
 * @returns {Promise<string>}
 */
export async function tensorDigest(tensor) {
  const sha = new Sha256();
  for await (const { bytes } of readBlocks(tensor)) sha.update(bytes);
  return sha.hex();
}

/**
 * S-8.2: the digest of the header without its layout.
 *
 * @param {import('./container.mjs').Container} container
 * @param {string} headerDigest  the one the document gives, replaced by zeros before hashing
 * @returns {string}
 */
export function computeHeaderDigest(container, headerDigest) {
  const members = [];
  for (const { name, dtype, shape } of container.tensors.values()) {
    members.push(name, new JsonObject(['dtype', dtype, 'shape', shape]));
  }
  const metadata = [...container.metadata.entries()].flatMap(([key, text]) => (
    [key, key === 'ternfmt' ? text.replaceAll(headerDigest, '0'.repeat(64)) : text]));
  members.push('__metadata__', new JsonObject(metadata));
  return digestOfCanonicalJson(new JsonObject(members));
}

/** SHA-256 of canonical JSON (which is ASCII), without holding all of its text. */
function digestOfCanonicalJson(value) {
  const sha = new Sha256();
  const encoder = new TextEncoder();
  let text = '';
  writeCanonical(value, (piece) => {
    text += piece;
    if (text.length < 65536) return;
    sha.update(encoder.encode(text));
    text = '';
  });
  return sha.update(encoder.encode(text)).hex();
}

/**
 * Step 25: each file's header by ascending file name, then tensors by ascending name. Digests of tensors that
 * are absent are ignored here; for whole models step 22 has refused them (S-8.4).
 *
 * @param {import('./structure.mjs').Parts} parts
 * @param {{container: import('./container.mjs').Container, document: import('./metadata.mjs').MetadataDocument}[]}
 *   files
 * @returns {Promise<{uncovered: number}>}  how many tensors no digest covers (S-8.3)
 */
export async function checkDigests(parts, files) {
  for (const { container, document } of files) {
    const expected = document.headerDigest;
    if (expected !== null && computeHeaderDigest(container, expected) !== expected) {
      throw new TernfmtError('DIGEST', `${container.name}: header`, 'does not match its digest (S-8.2)');
    }
  }
  let uncovered = 0;
  for (const name of [...parts.tensors.keys()].sort(compareCodePoints)) {
    const expected = parts.tensorDigests.get(name);
    if (expected === undefined) uncovered++;
    else if (await tensorDigest(parts.tensors.get(name)) !== expected) {
      throw new TernfmtError('DIGEST', `${parts.name}: tensor ${name}`, 'does not match its digest (S-8.1)');
    }
  }
  return { uncovered };
}
