/** SHA-256 (FIPS 180-4), fed in pieces: WebCrypto takes a message only as a whole. */

/** The first 32 bits of the fractional part of `root` of each of the first `count` primes. */
function primeRootBits(count, root) {
  const primes = [];
  for (let n = 2; primes.length < count; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n);
  return Int32Array.from(primes, (prime) => (root(prime) % 1) * 2 ** 32);
}

const INITIAL = primeRootBits(8, Math.sqrt);
const ROUND_CONSTANTS = primeRootBits(64, Math.cbrt);

const rotate = (word, count) => (word >>> count) | (word << (32 - count));

export class Sha256 {
  constructor() {
    // Int32Array keeps all words, and so all sums, in 32-bit integers.
    this.state = Int32Array.from(INITIAL);
    this.schedule = new Int32Array(64);
    this.block = new Uint8Array(64);
    this.blockView = new DataView(this.block.buffer);
    this.blockLength = 0;
    this.totalBytes = 0;
  }

  /** @param {Uint8Array} bytes @returns {this} */
  update(bytes) {
    this.totalBytes += bytes.length;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let position = 0;
    while (position < bytes.length) {
      if (this.blockLength === 0 && bytes.length - position >= 64) {
        this.#compress(view, position);
        position += 64;
        continue;
      }
      const taken = Math.min(64 - this.blockLength, bytes.length - position);
      this.block.set(bytes.subarray(position, position + taken), this.blockLength);
      this.blockLength = (this.blockLength + taken) % 64;
      position += taken;
      if (this.blockLength === 0) this.#compress(this.blockView, 0);
    }
    return this;
  }

  /** Pads and finishes. @returns {string} 64 lower-case hexadecimal digits (S-8.1) */
  hex() {
    const { totalBytes } = this;
    const zeros = (119 - (totalBytes % 64)) % 64;
    const padding = new Uint8Array(1 + zeros + 8);
    padding[0] = 0x80;
    new DataView(padding.buffer).setBigUint64(1 + zeros, BigInt(totalBytes) * 8n);
    this.update(padding);
    return Array.from(this.state, (word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  /** Takes in the 64 bytes of the view from `offset` on. */
  #compress(view, offset) {
    const w = this.schedule;
    for (let t = 0; t < 16; t++) w[t] = view.getInt32(offset + 4 * t);
    for (let t = 16; t < 64; t++) {
      const s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >>> 3);
      const s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >>> 10);
      w[t] = (w[t - 16] + s0 + w[t - 7] + s1) | 0;
    }
    const { state } = this;
    let a = state[0], b = state[1], c = state[2], d = state[3];
    let e = state[4], f = state[5], g = state[6], h = state[7];
    for (let t = 0; t < 64; t++) {
      const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const t1 = (h + sum1 + ((e & f) ^ (~e & g)) + ROUND_CONSTANTS[t] + w[t]) | 0;
      const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const t2 = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g; g = f; f = e; e = (d + t1) | 0;
      d = c; c = b; b = a; a = (t1 + t2) | 0;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    state[4] += e; state[5] += f; state[6] += g; state[7] += h;
  }
}
