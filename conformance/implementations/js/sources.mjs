/** Sources that work in browsers and in Node alike. For paths in Node see node-files.mjs. */

/**
 * @param {Uint8Array} bytes
 * @returns {import('./container.mjs').Source}
 */
export function bytesSource(bytes) {
  return { size: bytes.length, read: (offset, length) => bytes.subarray(offset, offset + length) };
}

/**
 * A Blob, or a File that a user picked: only the parts that are asked for are read.
 *
 * @param {Blob} blob
 * @returns {import('./container.mjs').Source}
 */
export function blobSource(blob) {
  const read = async (offset, length) => new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
  return { size: blob.size, read };
}

/**
 * Files by name, as a folder without symbolic links.
 *
 * @param {Map<string, import('./container.mjs').Source>} sources
 * @returns {import('./model.mjs').Folder}
 */
export function mapFolder(sources) {
  return {
    list: () => [...sources.keys()],
    open: (name) => sources.get(name) ?? null,
    isSymbolicLink: () => false,
  };
}

/**
 * Joins the blocks that `unpack` and `dequantize` yield.
 *
 * @template {Int8Array | Uint8Array} T
 * @param {AsyncIterable<T>} blocks
 * @returns {Promise<Uint8Array>}  the bytes of all blocks
 */
export async function joinBlocks(blocks) {
  const parts = [];
  for await (const block of blocks) parts.push(new Uint8Array(block.buffer, block.byteOffset, block.byteLength));
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let position = 0;
  for (const part of parts) {
    joined.set(part, position);
    position += part.length;
  }
  return joined;
}
