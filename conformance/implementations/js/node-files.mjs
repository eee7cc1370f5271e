/** Sources and folders on disk, for Node. The only module of this reader that imports from Node. */

import fs from 'node:fs';
import path from 'node:path';

import { openFile, openFolder, openIndex } from './model.mjs';

/** The file last read stays open, so that neither many shards nor many small reads cost much. */
let lastRead = { path: null, descriptor: -1 };

function descriptorOf(file) {
  if (lastRead.path !== file) {
    if (lastRead.path !== null) fs.closeSync(lastRead.descriptor);
    lastRead = { path: null, descriptor: -1 };
    lastRead = { path: file, descriptor: fs.openSync(file, 'r') };
  }
  return lastRead.descriptor;
}

/** Closes the file last read: call it before files are replaced under their names. */
export function closeFiles() {
  if (lastRead.path !== null) fs.closeSync(lastRead.descriptor);
  lastRead = { path: null, descriptor: -1 };
}

/**
 * @param {string} file  a path
 * @returns {import('./container.mjs').Source}
 */
export function pathSource(file) {
  const read = (offset, length) => {
    const bytes = new Uint8Array(length);
    const descriptor = descriptorOf(file);
    for (let done = 0; done < length;) {
      const count = fs.readSync(descriptor, bytes, done, length - done, offset + done);
      if (count === 0) throw new Error(`${file} shrank while it was read`);
      done += count;
    }
    return bytes;
  };
  return { size: fs.statSync(file).size, read };
}

/**
 * @param {string} folder  a path
 * @returns {import('./model.mjs').Folder}
 */
export function pathFolder(folder) {
  const isFile = (name) => {
    try {
      return fs.statSync(path.join(folder, name), { throwIfNoEntry: false })?.isFile() ?? false;
    } catch (error) {
      if (error.code === 'ELOOP') return false; // a link that leads nowhere, like a dangling one
      throw error;
    }
  };
  const isSymbolicLink = (name) => (
    fs.lstatSync(path.join(folder, name), { throwIfNoEntry: false })?.isSymbolicLink() ?? false);
  return {
    list: () => fs.readdirSync(folder).filter(isFile),
    open: (name) => (isFile(name) ? pathSource(path.join(folder, name)) : null),
    isSymbolicLink,
  };
}

/**
 * Opens a folder, an index or a file, whichever the path is.
 *
 * @param {string} file
 * @param {{readAs?: 'auto'|'whole'|'shard', strictLinks?: boolean}} [options]
 * @returns {Promise<import('./model.mjs').Model>}
 */
export async function openPath(file, options = {}) {
  const name = path.basename(file);
  if (fs.statSync(file).isDirectory()) return openFolder(pathFolder(file), { ...options, name });
  if (name.endsWith('.safetensors.index.json')) return openIndex(pathFolder(path.dirname(file)), name, options);
  return openFile(pathSource(file), { ...options, name });
}
