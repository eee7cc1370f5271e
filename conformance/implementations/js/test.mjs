/** Checks of this reader, run by `node --test`. Files are built by hand from SPEC.md's rules and examples. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import * as ternfmt from './ternfmt.mjs';
import { bf16FromF32, f16FromF32, f16ToNumber } from './floats.mjs';
import { openPath, pathFolder } from './node-files.mjs';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SPEC = path.join(HERE, '..', '..', '..', 'SPEC.md');
const DTYPE_BYTES = { U8: 1, F16: 2, BF16: 2, F32: 4 };

/** A file of these header bytes and this data; `H` may lie. */
function fileOf(header, data = [], H = undefined) {
  const text = typeof header === 'string' ? new TextEncoder().encode(header) : Uint8Array.from(header);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(H ?? text.length), true);
  return Uint8Array.from([...prefix, ...text, ...data]);
}

/** Tensors {name: [dtype, shape, bytes]} with a document, laid out by dtype, padded to 64. */
function build(tensors, document, metadata = {}) {
  const header = {};
  if (document !== null) {
    const text = typeof document === 'string' ? document : JSON.stringify(document);
    header.__metadata__ = { format: 'pt', ternfmt: text, ...metadata };
  }
  const data = [];
  const byWidth = Object.entries(tensors).sort((a, b) => DTYPE_BYTES[b[1][0]] - DTYPE_BYTES[a[1][0]]);
  for (const [name, [dtype, shape, bytes]] of byWidth) {
    header[name] = { dtype, shape, data_offsets: [data.length, data.length + bytes.length] };
    data.push(...bytes);
  }
  const text = JSON.stringify(header);
  return fileOf(text.padEnd(Math.ceil((8 + text.length) / 64) * 64 - 8), data);
}

const DOCUMENT = { version: '1.0', required: [], tensors: { w: { shape: [1, 5], encoding: 'int2' } } };
const TENSORS = { w_scale: ['F16', [1], [0x00, 0x3c]], w: ['U8', [1, 2], [0x71, 0x03]] };
const GOOD = build(TENSORS, DOCUMENT);

const documentWith = (changes) => ({ ...DOCUMENT, ...changes });
const entryWith = (changes, required = []) => (
  documentWith({ required, tensors: { w: { ...DOCUMENT.tensors.w, ...changes } } }));

/** Steps 1 to 25 over bytes; the error's class, or 'ok'. */
async function classOf(bytes, options) {
  try {
    const model = await ternfmt.openFile(ternfmt.bytesSource(bytes), options);
    await model.checkData();
    await model.checkDigests();
    return 'ok';
  } catch (error) {
    if (error instanceof ternfmt.TernfmtError) return error.class;
    throw error;
  }
}

/** One test per row: [what, bytes, class, options?]. */
function table(title, rows) {
  for (const [what, bytes, expected, options] of rows) {
    test(`${title}: ${what} is ${expected}`, async () => {
      assert.equal(await classOf(bytes, options), expected);
    });
  }
}

const info = (text) => fileOf(`{"a":${text}}`.padEnd(64 - 8), [0, 0, 0, 0]);
const nested = (depth) => `{"version":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`;

table('container', [
  ['a good file', GOOD, 'ok'],
  ['7 bytes', GOOD.slice(0, 7), 'PREFIX'],
  ['H = 0', fileOf('', [], 0), 'HEADER_LEN'],
  ['H past the end', fileOf('{}', [], 3), 'HEADER_LEN'],
  ['H = 2^64 - 1', fileOf('{}', [], 2n ** 64n - 1n), 'HEADER_LEN'],
  ['a byte order mark', fileOf('\ufeff{}'), 'ENCODING'],
  ['an overlong form', fileOf([0x7b, 0xc0, 0x80, 0x7d]), 'ENCODING'],
  ['an encoded surrogate', fileOf([0x7b, 0xed, 0xa0, 0x80, 0x7d]), 'ENCODING'],
  ['leading whitespace', fileOf(' {}'), 'JSON'],
  ['a newline after }', fileOf('{}\n'), 'JSON'],
  ['an array', fileOf('[]'), 'JSON'],
  ['a trailing comma', fileOf('{"a":1,}'), 'JSON'],
  ['NaN', fileOf('{"a":NaN}'), 'JSON'],
  ['a leading zero', fileOf('{"a":01}'), 'JSON'],
  ['33 digits', fileOf(`{"a":${'1'.repeat(33)}}`), 'JSON'],
  ['33 levels', fileOf(nested(33)), 'JSON'],
  ['32 levels', fileOf(nested(32)), 'TENSOR_INFO'],
  ['a raw control character', fileOf('{"a\u0001":1}'), 'JSON'],
  ['an unpaired surrogate before JSON faults', fileOf('{"\\ud800":1,}'), 'JSON'],
  ['an unpaired surrogate', fileOf('{"\\ud800":1,"\\ud800":1}'), 'ENCODING'],
  ['an unpaired low surrogate', fileOf('{"a":"\\udc00"}'), 'ENCODING'],
  ['a paired surrogate', fileOf('{"\\ud83d\\ude00":1}'), 'NAME'],
  ['a duplicate after escapes', fileOf('{" a":1," \\u0061":1}'), 'DUPLICATE'],
  ['a nested duplicate', fileOf('{" a":[{"x":1,"x":2}]}'), 'DUPLICATE'],
  ['an empty name', fileOf('{"":1}'), 'NAME'],
  ['a name of 256', fileOf(`{"${'a'.repeat(256)}":1}`), 'NAME'],
  ['a fourth key', info('{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}'), 'TENSOR_INFO'],
  ['dimension 4.0', info('{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}'), 'TENSOR_INFO'],
  ['dimension -0', info('{"dtype":"U8","shape":[-0],"data_offsets":[0,4]}'), 'TENSOR_INFO'],
  ['dtype F4', info('{"dtype":"F4","shape":[4],"data_offsets":[0,4]}'), 'TENSOR_INFO'],
  ['dimension 2^53', info('{"dtype":"U8","shape":[9007199254740992],"data_offsets":[0,4]}'), 'OVERFLOW'],
  ['a product around a zero', info('{"dtype":"U8","shape":[99999999,0,99999999],"data_offsets":[0,0]}'), 'OVERFLOW'],
  ['a hole', info('{"dtype":"U8","shape":[3],"data_offsets":[1,4]}'), 'LAYOUT'],
  ['data left over', info('{"dtype":"U8","shape":[3],"data_offsets":[0,3]}'), 'LAYOUT'],
  ['begin after end', info('{"dtype":"U8","shape":[3],"data_offsets":[4,0]}'), 'LAYOUT'],
  ['a misaligned tensor', fileOf('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', [0, 0, 0, 0]), 'LAYOUT'],
  ['a shape that differs', info('{"dtype":"U8","shape":[5],"data_offsets":[0,4]}'), 'SIZE'],
  ['no document', info('{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}'), 'STRIPPED'],
  ['metadata of numbers', fileOf('{"__metadata__":{"ternfmt":1}}'), 'METADATA'],
]);

table('metadata', [
  ['trailing spaces', build(TENSORS, `${JSON.stringify(DOCUMENT)}  `), 'ok'],
  ['a trailing newline', build(TENSORS, `${JSON.stringify(DOCUMENT)}\n`), 'JSON'],
  ['an unpaired surrogate', build(TENSORS, '{"a":"\\ud800"}'), 'ENCODING'],
  ['a duplicate', build(TENSORS, '{"a":1,"a":1}'), 'DUPLICATE'],
  ['version 1', build(TENSORS, documentWith({ version: '1' })), 'METADATA'],
  ['version 01.0', build(TENSORS, documentWith({ version: '01.0' })), 'METADATA'],
  ['version 1.7', build(TENSORS, documentWith({ version: '1.7' })), 'ok'],
  ['version 2.0, required absent', build(TENSORS, { version: '2.0' }), 'VERSION'],
  ['required twice', build(TENSORS, documentWith({ required: ['x', 'x'] })), 'METADATA'],
  ['an unknown feature, tensors absent', build(TENSORS, { version: '1.0', required: ['x'] }), 'FEATURE'],
  ['tensors absent', build(TENSORS, { version: '1.0', required: [] }), 'METADATA'],
  ['an ancillary 1.5', build(TENSORS, documentWith({ x: [{ y: 1.5 }] })), 'METADATA'],
  ['an ancillary -0', build(TENSORS, JSON.stringify(documentWith({ x: 7 })).replace('7', '-0')), 'METADATA'],
  ['an ancillary -7', build(TENSORS, documentWith({ x: { y: [null, true, -7, 'z'] } })), 'ok'],
  ['encoding int4', build(TENSORS, entryWith({ encoding: 'int4' })), 'METADATA'],
  ['K past K_MAX', build(TENSORS, entryWith({ shape: [1, 2 ** 24] })), 'METADATA'],
  ['group_size 8', build(TENSORS, entryWith({ group_size: 8 }, ['group-scale'])), 'METADATA'],
  ['group_size null', build(TENSORS, entryWith({ group_size: null })), 'METADATA'],
  ['an unlisted feature', build(TENSORS, entryWith({ planes: 2 })), 'FEATURE'],
  ['a feature not used', build(TENSORS, entryWith({}, ['planes'])), 'ok'],
  ['a derived name declared', build(TENSORS, documentWith({
    tensors: { w: DOCUMENT.tensors.w, w_plane4: DOCUMENT.tensors.w } })), 'NAME'],
  ['a stray plane', build({ ...TENSORS, w_plane2: ['U8', [1, 2], [0, 0]] }, DOCUMENT), 'NAME'],
  ['an absent tensor', build({ w_scale: TENSORS.w_scale }, DOCUMENT), 'METADATA'],
  ['an absent tensor in a shard', build({ w_scale: TENSORS.w_scale }, DOCUMENT), 'ok', { readAs: 'shard' }],
  ['an absent tensor by shard name', build({ w_scale: TENSORS.w_scale }, DOCUMENT), 'ok',
    { name: 'm-00001-of-00002.safetensors' }],
  ['an undeclared tensor', build(TENSORS, documentWith({ tensors: {} })), 'METADATA'],
  ['a wrong codes shape', build({ ...TENSORS, w: ['U8', [2, 1], [1, 1]] }, DOCUMENT), 'METADATA'],
  ['an absent scale', build({ w: TENSORS.w }, DOCUMENT), 'SCALE'],
  ['a scale of shape [1,1]', build({ ...TENSORS, w_scale: ['F16', [1, 1], [0, 0]] }, DOCUMENT), 'SCALE'],
  ['a digest of an absent tensor', build(TENSORS, documentWith({
    digests: { tensors: { y: '0'.repeat(64) } } })), 'METADATA'],
  ['a digest in upper case', build(TENSORS, documentWith({ digests: { header: 'A'.repeat(64) } })), 'METADATA'],
  ['a wrong header digest', build(TENSORS, documentWith({ digests: { header: 'a'.repeat(64) } })), 'DIGEST'],
]);

table('data', [
  ['a NaN scale and a bad code', build({ w_scale: ['F16', [1], [1, 0x7c]], w: ['U8', [1, 2], [2, 0]] }, DOCUMENT),
    'SCALE'],
  ['a code after padding', build({ w_scale: ['F16', [2], [0, 0, 0, 0]], w: ['U8', [2, 1], [0xc0, 2]] },
    entryWith({ shape: [2, 3] })), 'CODE'],
  ['10 in a pad lane', build({ ...TENSORS, w: ['U8', [1, 2], [0x71, 0x08]] }, DOCUMENT), 'PADDING'],
  ['scale +0.0 with codes', build({ ...TENSORS, w_scale: ['F16', [1], [0, 0]] }, DOCUMENT), 'ok'],
]);

test('S-10.5: order is by code point, not by UTF-16 unit', () => {
  const object = new ternfmt.JsonObject(['\u{1f600}', 1, '\uffff', 2, 'a\u007f', '\n"']);
  assert.equal(ternfmt.canonicalJson(object), '{"a\\u007f":"\\n\\"","\\uffff":2,"\\ud83d\\ude00":1}');
});

test('SHA-256 equals Node\'s', () => {
  for (const length of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]) {
    const bytes = Uint8Array.from({ length }, (_, i) => i * 7);
    const sha = new ternfmt.Sha256().update(bytes.subarray(0, length >> 1)).update(bytes.subarray(length >> 1));
    assert.equal(sha.hex(), createHash('sha256').update(bytes).digest('hex'));
  }
});

test('F16 and BF16 round to nearest even', () => {
  for (let bits = 0; bits < 0x7c00; bits++) {
    const value = f16ToNumber(bits);
    const above = bits === 0x7bff ? 65536 : f16ToNumber(bits + 1);
    assert.equal(f16FromF32(value), bits);
    assert.equal(f16FromF32(-value), bits === 0 ? 0x8000 : bits | 0x8000);
    assert.equal(f16FromF32((value + above) / 2), bits + (bits & 1)); // a tie
    assert.equal(f16FromF32(Math.fround((value + 3 * above) / 4)), bits + 1);
    assert.equal(f16FromF32(Math.fround((3 * value + above) / 4)), bits);
  }
  assert.deepEqual([Infinity, -Infinity, NaN, 2 ** -26].map(f16FromF32), [0x7c00, 0xfc00, 0x7e00, 0]);
  assert.deepEqual([1 + 2 ** -8, 1 + 3 * 2 ** -8, -0, 3.4e38, NaN].map((x) => bf16FromF32(Math.fround(x))),
    [0x3f80, 0x3f82, 0x8000, 0x7f80, 0x7fc0]);
});

const f32Bytes = (...values) => [...new Uint8Array(Float32Array.from(values).buffer)];

test('S-4.6: planes, then a low-rank sum that is rounded on its own', async () => {
  const up = [1, 2 ** -25, -1];
  const tensors = {
    w_scale: ['F32', [1], f32Bytes(2 ** -24)], w: ['U8', [1, 1], [1]],
    w_lowrank_up: ['F32', [1, 3], f32Bytes(...up)],
    w_lowrank_down: ['F32', [3, 3], f32Bytes(1, 1, 1, 1, 1, 1, 1, 1, 1)],
  };
  const model = await ternfmt.openFile(ternfmt.bytesSource(
    build(tensors, entryWith({ shape: [1, 3], low_rank: 3 }, ['low-rank']))));
  const bytes = await ternfmt.joinBlocks(model.dequantize('w', 'F32'));
  assert.deepEqual([...new Float32Array(bytes.buffer)], [2 ** -24, 0, 0]);
});

/** The fenced blocks of Appendix B: {info: {key: value}, lines}. */
function appendixBlocks() {
  if (!fs.existsSync(SPEC)) return [];
  const text = fs.readFileSync(SPEC, 'utf8').split('## Appendix B')[1] ?? '';
  return [...text.matchAll(/^```(\w+) (.*)\n([^]*?)^```$/gm)].map(([, kind, words, body]) => (
    {
      kind,
      info: Object.fromEntries(words.split(' ').map((word) => word.split('='))),
      lines: body.trim().split('\n'),
    }));
}

const BLOCKS = appendixBlocks();
const hexBytes = (text) => text.trim().split(/ +/).map((digits) => parseInt(digits, 16));

/** A `hex tensors=...` block as a file with one ternary tensor w. */
function fileOfBlock({ info: { shape, scale, group_size, planes }, lines }) {
  const dimensions = shape.split(',').map(Number);
  const entry = { shape: dimensions, encoding: 'int2' };
  if (group_size) entry.group_size = Number(group_size);
  if (planes) entry.planes = Number(planes);
  const groups = group_size ? [Math.ceil(dimensions[1] / entry.group_size)] : [];
  const tensors = {};
  for (const line of lines) {
    const [, name, digits] = /^(\S+) +(.*)$/.exec(line);
    tensors[name] = name.endsWith('_scale')
      ? [scale, [dimensions[0], ...groups], hexBytes(digits)]
      : ['U8', [dimensions[0], Math.ceil(dimensions[1] / 4)], hexBytes(digits)];
  }
  const required = [...(group_size ? ['group-scale'] : []), ...(planes ? ['planes'] : [])];
  return build(tensors, { version: '1.0', required, tensors: { w: entry } });
}

for (const block of BLOCKS.filter(({ info: { tensors } }) => tensors)) {
  test(`Appendix B, ${block.info.tensors}`, async () => {
    const bytes = fileOfBlock(block);
    assert.equal(await classOf(bytes), block.info.error ?? 'ok');
    const values = BLOCKS.find(({ kind, info: { of } }) => kind === 'values' && of === block.info.tensors);
    if (!values) return;
    const model = await ternfmt.openFile(ternfmt.bytesSource(bytes));
    const weights = new Float32Array((await ternfmt.joinBlocks(model.dequantize('w'))).buffer);
    assert.deepEqual([...weights], values.lines.join(' ').trim().split(/ +/).map(Number));
  });
}

test('Appendix B, the smallest file and its header digest', { skip: BLOCKS.length === 0 }, async () => {
  const dump = BLOCKS.find(({ info: { file } }) => file).lines;
  const bytes = Uint8Array.from(dump.flatMap((line) => hexBytes(line.slice(10).split('|')[0])));
  const model = await ternfmt.openFile(ternfmt.bytesSource(bytes));
  assert.deepEqual([...await ternfmt.joinBlocks(model.unpack('w'))], [1]);

  const [text] = BLOCKS.find(({ info }) => info['digest-text']).lines;
  const [digest] = BLOCKS.find(({ kind, info }) => kind === 'hex' && info.digest).lines;
  assert.equal(createHash('sha256').update(text).digest('hex'), digest);
  const document = JSON.parse(text).__metadata__.ternfmt.replace('0'.repeat(64), digest);
  const withDigests = build({ w_scale: ['F16', [1], [0, 0x3c]], w: ['U8', [1, 1], [1]] }, document);
  assert.equal(await classOf(withDigests), 'ok');
  const flipped = withDigests.slice();
  flipped[flipped.length - 1] = 3;
  assert.equal(await classOf(flipped), 'DIGEST');
});

const SHARDS = {
  'b.safetensors': build({ w: TENSORS.w }, DOCUMENT),
  'a.safetensors': build({ w_scale: TENSORS.w_scale }, DOCUMENT),
};
const INDEX = { metadata: { total_size: 4 }, weight_map: { w: 'b.safetensors', w_scale: 'a.safetensors' } };
const CONFIG = '{"x": Infinity, "quantization_config": {"quant_method": "ternfmt", "format_version": "1.0"}}';

/** The class for a folder of these files, and what to change in them. */
async function classOfFolder(changes, options) {
  const files = { 'm.safetensors.index.json': JSON.stringify(INDEX), 'config.json': CONFIG, ...SHARDS, ...changes };
  const sources = Object.entries(files).filter(([, content]) => content !== null).map(([name, content]) => (
    [name, ternfmt.bytesSource(typeof content === 'string' ? new TextEncoder().encode(content) : content)]));
  try {
    const model = await ternfmt.openFolder(ternfmt.mapFolder(new Map(sources)), options);
    await model.checkData();
    return 'ok';
  } catch (error) {
    return error.class ?? error;
  }
}

const indexWith = (changes) => ({ 'm.safetensors.index.json': JSON.stringify({ ...INDEX, ...changes }) });
const mapWith = (changes) => indexWith({ weight_map: { ...INDEX.weight_map, ...changes } });

for (const [what, changes, expected] of [
  ['a good folder', {}, 'ok'],
  ['an index with whitespace around', { 'm.safetensors.index.json': `\n${JSON.stringify(INDEX)}\n` }, 'ok'],
  ['two indexes', { 'n.safetensors.index.json': '{}' }, 'INDEX'],
  ['no index and two files', { 'm.safetensors.index.json': null }, 'INDEX'],
  ['a duplicate in the index', { 'm.safetensors.index.json': '{"a":1,"a":1}' }, 'DUPLICATE'],
  ['no weight_map', { 'm.safetensors.index.json': '{}' }, 'INDEX'],
  ['a path before an absent shard', mapWith({ x: '../x', y: 'gone' }), 'PATH'],
  ['an absent shard', mapWith({ y: 'gone' }), 'INDEX'],
  ['a tensor mapped to the wrong shard', mapWith({ w: 'a.safetensors' }), 'INDEX'],
  ['a wrong total_size', indexWith({ metadata: { total_size: 5 } }), 'INDEX'],
  ...[['4.0', 'ok'], ['0.04e+2', 'ok'], ['400e-2', 'ok'], ['-4', 'INDEX'], ['4e-0', 'ok'], ['0', 'INDEX'],
    ['4.0000000000000000000001', 'INDEX'], ['4e1', 'INDEX'], ['4e99999999999999999999', 'INDEX'],
    ['4e-99999999999999999999', 'INDEX'], ['40', 'INDEX']].map(([text, expected]) => (
    [`total_size ${text}`, { 'm.safetensors.index.json': JSON.stringify(INDEX).replace(':4}', `:${text}}`) }, expected]
  )),
  ['a bad shard before S-7.5', { ...mapWith({ q: 'a.safetensors' }), 'b.safetensors': GOOD.slice(0, 7) }, 'PREFIX'],
  ['entries that differ', { 'b.safetensors': build({ w: TENSORS.w }, entryWith({ x: 1 })) }, 'METADATA'],
  ['a bad code and a bad config', {
    'config.json': '[]', 'b.safetensors': build({ w: ['U8', [1, 2], [2, 0]] }, DOCUMENT),
  }, 'CONFIG'],
  ['another quant_method', { 'config.json': CONFIG.replace('ternfmt', 'gptq') }, 'CONFIG'],
  ['another format_version', { 'config.json': CONFIG.replace('1.0', '1.1') }, 'CONFIG'],
  ['no quantization_config', { 'config.json': '{"a":NaN}' }, 'ok'],
  ['an unpaired surrogate in the config', { 'config.json': '{"a":"\\ud83d"}' }, 'ok'],
  ['a key twice in the config', { 'config.json': '{"a":[{"b":1,"b":1}]}' }, 'CONFIG'],
]) {
  test(`folder: ${what} is ${expected}`, async () => assert.equal(await classOfFolder(changes), expected));
}

test('the adapter and symbolic links', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'ternfmt-js-'));
  try {
    for (const [name, bytes] of Object.entries(SHARDS)) fs.writeFileSync(path.join(folder, name), bytes);
    fs.renameSync(path.join(folder, 'b.safetensors'), path.join(folder, 'blob'));
    fs.symlinkSync('blob', path.join(folder, 'b.safetensors'));
    const index = path.join(folder, 'm.safetensors.index.json');
    fs.writeFileSync(index, JSON.stringify(INDEX));
    await openPath(index);
    await assert.rejects(openPath(folder, { strictLinks: true }), { class: 'PATH' });
    assert.equal(pathFolder(folder).open('gone'), null);

    const out = path.join(folder, 'out');
    const requests = [
      { id: 0, op: 'start', protocol: 1 },
      { id: 1, op: 'validate', path: index, read_as: 'auto', digests: true, strict_links: false },
      { id: 2, op: 'describe', path: index },
      { id: 3, op: 'dequantize', path: index, tensor: 'w', dtype: 'F16', out },
      { id: 4, op: 'matmul' }, { id: 5, op: 'validate', path: path.join(folder, 'blob') }, { id: 6, op: 'stop' },
    ];
    const adapter = path.join(HERE, 'adapter.mjs');
    const input = requests.map((request) => `${JSON.stringify(request)}\n`).join('');
    const { stdout, status } = spawnSync(process.execPath, [adapter], { input, encoding: 'utf8' });
    const answers = stdout.trim().split('\n').map((line) => JSON.parse(line));
    assert.equal(status, 0);
    assert.deepEqual(answers.map(({ id, ok }) => [id, ok]),
      [[0, undefined], [1, true], [2, true], [3, true], [4, undefined], [5, false], [6, true]]);
    assert.deepEqual(answers[2].tensors[0].shape, ['1', '5']);
    assert.equal(answers[4].skipped, true);
    assert.equal(fs.readFileSync(out).toString('hex'), '003c000000bc003c00bc');

    const once = spawnSync(process.execPath, [adapter, 'validate', path.join(folder, 'blob')], { encoding: 'utf8' });
    assert.deepEqual([once.status, once.stdout.split('\n')[0]], [1, 'SCALE']);
    assert.equal(spawnSync(process.execPath, [adapter, 'validate', folder]).status, 0);
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
});
