/**
 * The adapter of the conformance suite (PROTOCOL.md): `node adapter.mjs` speaks JSON Lines on standard input
 * and output, `node adapter.mjs validate PATH` checks one path.
 */

import fs from 'node:fs';
import process from 'node:process';
import readline from 'node:readline';

import { FEATURES, Sha256, TernfmtError, tensorDigest } from './ternfmt.mjs';
import { closeFiles, openPath } from './node-files.mjs';
import { scaleName } from './structure.mjs';

const IMPLEMENTATION = { name: 'ternfmt-js', version: '0.1.0', language: 'JavaScript' };
const LEVELS = ['R0', 'R1', 'R2', 'R3'];

/** Opens and validates: steps 1 to 24, S-10.2, S-10.3. */
async function openValid(request) {
  const model = await openPath(request.path, { readAs: request.read_as, strictLinks: request.strict_links });
  await model.checkData();
  return model;
}

async function validate(request) {
  const model = await openValid(request);
  if (request.digests) await model.checkDigests();
  return {};
}

async function digestOfCodes(model, name, plane) {
  const sha = new Sha256();
  for await (const block of model.unpack(name, { plane })) sha.update(new Uint8Array(block.buffer));
  return sha.hex();
}

async function describeTernary(model, name) {
  const entry = model.entries.get(name);
  const answer = {
    name, ternary: true, shape: entry.shape.map(String), dtype: model.tensors.get(scaleName(name, 1)).dtype,
    planes: entry.planes, group_size: entry.group_size, low_rank: entry.low_rank, codes_sha256: [], scale_sha256: [],
  };
  for (let plane = 1; plane <= entry.planes; plane++) {
    answer.codes_sha256.push(await digestOfCodes(model, name, plane));
    answer.scale_sha256.push(await tensorDigest(model.tensors.get(scaleName(name, plane))));
  }
  return answer;
}

async function describeDense(model, name) {
  const tensor = model.tensors.get(name);
  const { dtype, shape } = tensor;
  return { name, ternary: false, shape: shape.map(String), dtype, data_sha256: await tensorDigest(tensor) };
}

/** A ternary tensor that lies in a shard in part only is no logical tensor of that shard. */
async function describe(request) {
  const model = await openValid(request);
  const tensors = [];
  for (const name of model.ternaryNames()) {
    if (model.isComplete(name)) tensors.push(await describeTernary(model, name));
  }
  for (const name of model.denseNames()) tensors.push(await describeDense(model, name));
  tensors.sort((a, b) => (a.name < b.name ? -1 : 1)); // names are ASCII (S-1.7)
  return { tensors };
}

/** Writes blocks to a file. */
async function writeBlocks(out, blocks) {
  const descriptor = fs.openSync(out, 'w');
  try {
    for await (const block of blocks) fs.writeFileSync(descriptor, block);
  } finally {
    fs.closeSync(descriptor);
  }
  return {};
}

async function unpack(request) {
  const model = await openValid(request);
  const { tensor, plane = 1, rows: [firstRow, endRow] } = request;
  return writeBlocks(request.out,
    model.unpack(tensor, { plane, firstRow: Number(firstRow), endRow: Number(endRow) }));
}

async function dequantize(request) {
  const model = await openValid(request);
  return writeBlocks(request.out, model.dequantize(request.tensor, request.dtype));
}

const OPERATIONS = { validate, describe, unpack, dequantize };

/** The answer to one request, without its id. */
async function answerTo(request) {
  if (request.op === 'start') {
    return { protocol: 1, implementation: IMPLEMENTATION, levels: LEVELS, features: FEATURES };
  }
  if (request.op === 'stop') return { ok: true };
  if (!Object.hasOwn(OPERATIONS, request.op)) {
    return { skipped: true, reason: `${request.op} is not implemented` };
  }
  try {
    return { ok: true, ...await OPERATIONS[request.op](request) };
  } catch (error) {
    if (!(error instanceof TernfmtError)) return { errored: true, detail: String(error.stack ?? error) };
    return { ok: false, error: { class: error.class, detail: error.message } };
  } finally {
    closeFiles(); // the next request may find other bytes under the same path
  }
}

/** Writes to standard output, and waits until it is written. */
const print = (text) => new Promise((resolve) => { process.stdout.write(text, resolve); });

async function serve() {
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() === '') continue;
    const request = JSON.parse(line);
    await print(`${JSON.stringify({ id: request.id, ...await answerTo(request) })}\n`);
    if (request.op === 'stop') break;
  }
  process.exit(0);
}

/** One-shot: exit code 0 or 1; anything else is a crash. */
async function validateOnce(file) {
  const answer = await answerTo({ op: 'validate', path: file });
  if (answer.errored) {
    process.stderr.write(`${answer.detail}\n`);
    process.exitCode = 2;
  } else if (!answer.ok) {
    await print(`${answer.error.class}\n${answer.error.detail}\n`);
    process.exitCode = 1;
  }
}

if (process.argv.length === 2) await serve();
else if (process.argv.length === 4 && process.argv[2] === 'validate') await validateOnce(process.argv[3]);
else {
  process.stderr.write('usage: adapter.mjs [validate PATH]\n');
  process.exitCode = 64;
}
