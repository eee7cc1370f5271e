/** Files, shards, indexes and folders: SPEC section 7 and the order of S-10.2 and S-10.3. */

import { TernfmtError } from './errors.mjs';
import { JsonNumber, JsonObject, canonicalJson, decodeUtf8, parseLenient, parseStrict } from './json.mjs';
import { HEADER_MAX, NAME_MAX, compareCodePoints } from './limits.mjs';
import { readContainer } from './container.mjs';
import { readMetadata } from './metadata.mjs';
import { calledForNames, checkStructure } from './structure.mjs';
import { checkTensorData, dequantizeBlocks, unpackBlocks } from './data.mjs';
import { checkDigests } from './digests.mjs';

/** @typedef {import('./container.mjs').Source} Source */
/** @typedef {import('./container.mjs').Container} Container */
/** @typedef {import('./metadata.mjs').MetadataDocument} MetadataDocument */
/** @typedef {{container: Container, document: MetadataDocument}} File  a file that passed steps 1 to 20 */

/**
 * What a reader needs of a folder.
 *
 * @typedef {Object} Folder
 * @property {() => string[] | Promise<string[]>} list  names of its files, links to files included
 * @property {(name: string) => Source | null | Promise<Source | null>} open  null: no such file
 * @property {(name: string) => boolean | Promise<boolean>} isSymbolicLink
 */

/** A model that passed steps 1 to 23: one file, or the union of all shards of an index. */
export class Model {
  /**
   * @param {string} name
   * @param {boolean} isWhole
   * @param {File[]} files  by ascending file name
   */
  constructor(name, isWhole, files) {
    this.name = name;
    this.isWhole = isWhole;
    this.files = files;
    /** @type {Map<string, import('./container.mjs').Tensor>} */
    this.tensors = union(files.map((file) => file.container.tensors));
    /** @type {Map<string, import('./metadata.mjs').Entry>} */
    this.entries = union(files.map((file) => file.document.entries));
    /** @type {Map<string, string>} */
    this.tensorDigests = union(files.map((file) => file.document.tensorDigests));
    this.checkedTensors = new Set();
    checkStructure(this);
  }

  /** The names of the ternary tensors, ascending (S-10.5). */
  ternaryNames() {
    return [...this.entries.keys()].sort(compareCodePoints);
  }

  /** The names of the dense tensors, ascending: all that is neither ternary nor derived. */
  denseNames() {
    const derived = new Set([...this.entries.values()].flatMap(calledForNames));
    const isDense = (name) => !this.entries.has(name) && !derived.has(name);
    return [...this.tensors.keys()].filter(isDense).sort(compareCodePoints);
  }

  /** Step 24 for all ternary tensors. */
  async checkData() {
    for (const name of this.ternaryNames()) await this.checkTensor(name);
  }

  /** Step 24 for one ternary tensor, once (S-10.4). */
  async checkTensor(name) {
    if (this.checkedTensors.has(name)) return;
    await checkTensorData(this, this.entryOf(name));
    this.checkedTensors.add(name);
  }

  /** Step 25. @returns {Promise<{uncovered: number}>} how many tensors no digest covers (S-8.3) */
  checkDigests() {
    return checkDigests(this, this.files);
  }

  /**
   * The int8 codes of a plane, row-major, in blocks of whole rows.
   *
   * @param {string} name
   * @param {{plane?: number, firstRow?: number, endRow?: number}} [options]
   * @returns {AsyncGenerator<Int8Array>}
   */
  async* unpack(name, { plane = 1, firstRow = 0, endRow = this.entryOf(name).N } = {}) {
    const entry = this.completeEntryOf(name);
    const isGood = plane >= 1 && plane <= entry.planes && firstRow >= 0 && firstRow <= endRow && endRow <= entry.N;
    if (!isGood) throw new RangeError(`no plane ${plane} or rows ${firstRow} to ${endRow} in ${name}`);
    await this.checkTensor(name);
    yield* unpackBlocks(this, entry, plane, firstRow, endRow);
  }

  /**
   * The weights (S-4.6), little-endian, row-major, in blocks of whole rows.
   *
   * @param {string} name
   * @param {'F32'|'F16'|'BF16'} [dtype]
   * @returns {AsyncGenerator<Uint8Array>}
   */
  async* dequantize(name, dtype = 'F32') {
    const entry = this.completeEntryOf(name);
    await this.checkTensor(name);
    yield* dequantizeBlocks(this, entry, dtype);
  }

  /** True where no tensor that the entry calls for is missing, as may be in a shard. */
  isComplete(name) {
    return [name, ...calledForNames(this.entryOf(name))].every((part) => this.tensors.has(part));
  }

  entryOf(name) {
    const entry = this.entries.get(name);
    if (entry === undefined) throw new RangeError(`no ternary tensor ${name}`);
    return entry;
  }

  completeEntryOf(name) {
    if (!this.isComplete(name)) throw new RangeError(`a part of ${name} is not in this shard`);
    return this.entryOf(name);
  }
}

/** The union of maps; where two hold a key, their values are known to be equal. */
function union(maps) {
  const result = new Map();
  for (const map of maps) for (const [key, value] of map) if (!result.has(key)) result.set(key, value);
  return result;
}

/** Steps 1 to 20 for one file. @returns {Promise<File>} */
async function readFile(source, name) {
  const container = await readContainer(source, name);
  return { container, document: readMetadata(container) };
}

/** S-7.2: the naming of shards. */
const isShardName = (name) => /-[0-9]{5}-of-[0-9]{5}\.safetensors$/.test(name);

/**
 * Opens one file: steps 1 to 23. For step 24 call `checkData`, or let `unpack` and `dequantize` do it.
 *
 * @param {Source} source
 * @param {{name?: string, readAs?: 'auto'|'whole'|'shard'}} [options]  `auto`: by the name (S-7.2)
 * @returns {Promise<Model>}
 */
export async function openFile(source, { name = 'file', readAs = 'auto' } = {}) {
  const isShard = readAs === 'shard' || (readAs === 'auto' && isShardName(name));
  return new Model(name, !isShard, [await readFile(source, name)]);
}

/**
 * Opens a model by its index: S-10.2, (a) to (g).
 *
 * @param {Folder} folder  the one that holds the index (S-7.4)
 * @param {string} indexName
 * @param {{strictLinks?: boolean}} [options]  report shards that are symbolic links as PATH (S-7.4)
 * @returns {Promise<Model>}
 */
export async function openIndex(folder, indexName, { strictLinks = false } = {}) {
  const { weightMap, totalSize } = await readIndex(folder, indexName);
  const shardNames = [...new Set(weightMap.values())].sort(compareCodePoints);
  for (const name of shardNames) {
    checkShardName(name, indexName);
    if (strictLinks && await folder.isSymbolicLink(name)) {
      throw new TernfmtError('PATH', `${indexName}: ${name}`, 'is a symbolic link (S-7.4, strict mode)');
    }
  }
  const sources = await openShards(folder, shardNames, indexName);
  const files = [];
  for (const name of shardNames) files.push(await readFile(sources.get(name), name));
  checkWeightMap(weightMap, files, indexName);
  checkTotalSize(totalSize, files, indexName);
  checkAgreement(files);
  return new Model(indexName, true, files);
}

/** S-10.2 (a): the text, then the form of S-7.3. The length comes first, so that no hostile index is read. */
async function readIndex(folder, indexName) {
  const fail = (message) => {
    throw new TernfmtError('INDEX', indexName, `${message} (S-7.3)`);
  };
  const source = await folder.open(indexName);
  if (source === null) throw new Error(`no such file: ${indexName}`);
  if (source.size > HEADER_MAX) fail('has more than HEADER_MAX bytes');
  const index = parseStrict(decodeUtf8(await source.read(0, source.size), indexName), indexName, 'index');
  const map = index.get('weight_map');
  if (!(map instanceof JsonObject)) fail('weight_map is absent or not an object');
  const weightMap = new Map(map.entries());
  for (const shard of weightMap.values()) if (typeof shard !== 'string') fail('a shard name is not a string');
  const metadata = index.get('metadata');
  if (metadata !== undefined && !(metadata instanceof JsonObject)) fail('metadata is not an object');
  const totalSize = metadata?.get('total_size');
  const isNumber = typeof totalSize === 'number' || totalSize instanceof JsonNumber;
  if (totalSize !== undefined && !isNumber) fail('total_size is not a number');
  return { weightMap, totalSize };
}

/** S-10.2 (b): S-7.4, a plain file name. */
function checkShardName(name, indexName) {
  const isPlain = name !== '' && name !== '.' && name !== '..' && !/[/\\:\u0000-\u001f\u007f]/.test(name)
    && new TextEncoder().encode(name).length <= NAME_MAX;
  if (!isPlain) {
    throw new TernfmtError('PATH', `${indexName}: ${JSON.stringify(name.slice(0, 300))}`,
      'is not a plain file name (S-7.4)');
  }
}

/** S-10.2 (c). @returns {Promise<Map<string, Source>>} */
async function openShards(folder, shardNames, indexName) {
  const sources = new Map();
  for (const name of shardNames) {
    const source = await folder.open(name);
    if (source === null) throw new TernfmtError('INDEX', `${indexName}: ${name}`, 'the shard does not exist');
    sources.set(name, source);
  }
  return sources;
}

/** S-10.2 (e): S-7.5. */
function checkWeightMap(weightMap, files, indexName) {
  const fail = (name, message) => {
    throw new TernfmtError('INDEX', `${indexName}: tensor ${name}`, `${message} (S-7.5)`);
  };
  const containers = new Map(files.map(({ container }) => [container.name, container]));
  for (const [name, shard] of weightMap) {
    if (!containers.get(shard).tensors.has(name)) fail(name, `is not in ${shard}`);
  }
  for (const { container } of files) {
    for (const name of container.tensors.keys()) {
      if (weightMap.get(name) !== container.name) fail(name, `is in ${container.name}, weight_map says otherwise`);
    }
  }
}

/** S-10.2 (e): `total_size` is compared by its exact value, however it is written: tools write `12.0`. */
function checkTotalSize(totalSize, files, indexName) {
  if (totalSize === undefined) return;
  let bytes = 0n;
  for (const { container } of files) {
    for (const { begin, end } of container.tensors.values()) bytes += BigInt(end - begin);
  }
  const stated = totalSize instanceof JsonNumber ? totalSize.text : String(totalSize);
  if (!isExactly(stated, String(bytes))) {
    throw new TernfmtError('INDEX', indexName, `total_size is ${stated}, the tensors have ${bytes} bytes (S-7.3)`);
  }
}

/** Has a JSON number exactly the value of an integer >= 0 that is written as plain digits? */
function isExactly(number, integer) {
  const [, sign, whole, fraction = '', exponent = '0'] = /^(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE](.+))?$/.exec(number);
  const digits = (whole + fraction).replace(/^0+/, '');
  const significant = digits.replace(/0+$/, '');
  if (significant === '') return integer === '0';
  const zeros = Number(exponent) - fraction.length + digits.length - significant.length; // rounded where past any sense
  return sign === '' && zeros >= 0 && zeros < integer.length && significant + '0'.repeat(zeros) === integer;
}

/** S-10.2 (f): S-7.6, entries and digests that two shards give for one tensor are equal as JSON values. */
function checkAgreement(files) {
  const firstEntries = new Map();
  const firstDigests = new Map();
  for (const { container, document } of files) {
    const fail = (name, what) => {
      throw new TernfmtError('METADATA', `${container.name}: ${JSON.stringify(name)}`,
        `another shard gives another ${what} (S-7.6)`);
    };
    for (const [name, { json }] of document.entries) {
      const first = firstEntries.get(name);
      if (first === undefined) firstEntries.set(name, json);
      else if (canonicalJson(first) !== canonicalJson(json)) fail(name, 'entry');
    }
    for (const [name, digest] of document.tensorDigests) {
      const first = firstDigests.get(name);
      if (first === undefined) firstDigests.set(name, digest);
      else if (first !== digest) fail(name, 'digest');
    }
  }
}

/**
 * Opens the model of a folder: S-7.7, then CONFIG after step 23 (S-10.3).
 *
 * @param {Folder} folder
 * @param {{name?: string, strictLinks?: boolean}} [options]
 * @returns {Promise<Model>}
 */
export async function openFolder(folder, { name = 'folder', strictLinks = false } = {}) {
  const names = (await folder.list()).sort(compareCodePoints);
  const indexes = names.filter((candidate) => candidate.endsWith('.safetensors.index.json'));
  const files = names.filter((candidate) => candidate.endsWith('.safetensors'));
  const candidates = indexes.length > 0 ? indexes : files;
  if (candidates.length !== 1) {
    throw new TernfmtError('INDEX', name, `expected one index, or else one .safetensors file; found `
      + `${candidates.length === 0 ? 'none' : candidates.join(', ')} (S-7.7)`);
  }
  const model = indexes.length > 0
    ? await openIndex(folder, indexes[0], { strictLinks })
    : await openFile(await folder.open(files[0]), { name: files[0], readAs: 'whole' });
  await checkConfig(folder, model);
  return model;
}

/** S-7.8: the file wins over config.json. */
async function checkConfig(folder, model) {
  const fail = (message) => {
    throw new TernfmtError('CONFIG', 'config.json', `${message} (S-7.8)`);
  };
  const source = await folder.open('config.json');
  if (source === null) return;
  const config = await readConfig(source, fail);
  const quantization = config.get('quantization_config');
  if (quantization === undefined) return;
  if (!(quantization instanceof JsonObject)) fail('quantization_config is not an object');
  if (quantization.get('quant_method') !== 'ternfmt') fail('quant_method is not "ternfmt"');
  const formatVersion = quantization.get('format_version');
  for (const { container, document } of model.files) {
    if (formatVersion !== undefined && formatVersion !== document.version) {
      fail(`format_version differs from version ${document.version} of ${container.name}`);
    }
  }
}

/** Whatever does not parse to an object is CONFIG, whichever step would refuse it in a header. */
async function readConfig(source, fail) {
  if (source.size > HEADER_MAX) fail('has more than HEADER_MAX bytes');
  try {
    return parseLenient(decodeUtf8(await source.read(0, source.size), 'config.json'), 'config.json');
  } catch (error) {
    if (error instanceof TernfmtError) fail(error.message);
    throw error;
  }
}
