/**
 * A reader of the ternfmt format, version 1.0, written from SPEC.md alone. It has no dependencies and runs in
 * Node (18 or later) and in browsers. Numbers such as S-3.4 are rules of SPEC.md.
 *
 *   limits.mjs     section 9, dtypes                    structure.mjs  sections 3 to 6, steps 21 to 23
 *   errors.mjs     section 10: classes                  floats.mjs     F16, BF16, F32
 *   json.mjs       S-1.3 to S-1.6, S-11.1, steps 3-6    data.mjs       S-4.6, step 24
 *   container.mjs  section 1, steps 1 to 11             digests.mjs    section 8, step 25 (sha256.mjs)
 *   metadata.mjs   section 2, steps 12 to 20            model.mjs      section 7: shards, index, folder
 */

export { openFile, openFolder, openIndex, Model } from './model.mjs';
export { blobSource, bytesSource, joinBlocks, mapFolder } from './sources.mjs';
export { readContainer } from './container.mjs';
export { readMetadata } from './metadata.mjs';
export { TernfmtError } from './errors.mjs';
export { JsonNumber, JsonObject, canonicalJson, parseStrict } from './json.mjs';
export { computeHeaderDigest, tensorDigest } from './digests.mjs';
export { Sha256 } from './sha256.mjs';
export { FEATURES } from './limits.mjs';
