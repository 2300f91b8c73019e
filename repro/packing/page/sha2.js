// SHA-256 and SHA-512 (FIPS 180-4), in pieces: a browser's own digest wants the whole of a file in memory.

const PRIMES = [];
for (let candidate = 2; PRIMES.length < 80; candidate++) {
  if (PRIMES.every((prime) => candidate % prime)) PRIMES.push(candidate);
}

/** The first 64 bits behind the point of a prime's square root (degree 2) or cube root (degree 3), as a BigInt. */
function rootBits(prime, degree) {
  const scaled = BigInt(prime) << BigInt(64 * degree);
  let low = 1n << 64n;
  let high = low << 4n;
  while (high - low > 1n) {
    const middle = (low + high) >> 1n;
    if (middle ** BigInt(degree) <= scaled) low = middle;
    else high = middle;
  }
  return BigInt.asUintN(64, low);
}

const upperHalves = (numbers) => Int32Array.from(numbers, (number) => Number(number >> 32n) | 0);
const lowerHalves = (numbers) => Int32Array.from(numbers, (number) => Number(number & 0xffffffffn) | 0);
const STARTS = PRIMES.slice(0, 8).map((prime) => rootBits(prime, 2));
const ROUNDS = PRIMES.map((prime) => rootBits(prime, 3));
const START_HIGH = upperHalves(STARTS); // SHA-256 starts with these halves alone
const START_LOW = lowerHalves(STARTS);
const ROUND_HIGH = upperHalves(ROUNDS);
const ROUND_LOW = lowerHalves(ROUNDS);

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/** What both have in common: bytes gathered into blocks, and the padding at the end. */
class Sha2 {
  constructor(blockBytes) {
    this.block = new Uint8Array(blockBytes);
    this.used = 0;
    this.lengthBytes = 0;
  }

  /** Take in some bytes; returns itself. */
  update(data) {
    const size = this.block.length;
    let offset = 0;
    this.lengthBytes += data.length;
    if (this.used) {
      offset = Math.min(size - this.used, data.length);
      this.block.set(data.subarray(0, offset), this.used);
      this.used += offset;
      if (this.used < size) return this;
      this.compress(this.block, 0, size);
      this.used = 0;
    }
    const whole = offset + Math.floor((data.length - offset) / size) * size;
    this.compress(data, offset, whole);
    this.block.set(data.subarray(whole));
    this.used = data.length - whole;
    return this;
  }

  /** The digest of all bytes taken in. It can be asked for once. */
  digest() {
    const size = this.block.length;
    const bits = BigInt(this.lengthBytes) * 8n;
    const zeros = (2 * size - 1 - size / 8 - this.used) % size;
    const end = new Uint8Array(1 + zeros + size / 8);
    end[0] = 0x80;
    new DataView(end.buffer).setBigUint64(end.length - 8, bits);
    this.update(end);
    return this.result();
  }
}

class Sha256 extends Sha2 {
  constructor() {
    super(64);
    this.state = Int32Array.from(START_HIGH);
    this.words = new Int32Array(64);
  }

  result() {
    const bytes = new Uint8Array(32);
    this.state.forEach((word, place) => new DataView(bytes.buffer).setInt32(4 * place, word));
    return bytes;
  }

  /** Every block of data[from:to]. Long and spelt out, as a verification's time goes here: more than twice as
   *  fast as with the eight words in an array. */
  compress(data, from, to) {
    const w = this.words;
    const k = ROUND_HIGH;
    const state = this.state;
    let a0 = state[0];
    let b0 = state[1];
    let c0 = state[2];
    let d0 = state[3];
    let e0 = state[4];
    let f0 = state[5];
    let g0 = state[6];
    let h0 = state[7];
    for (let at = from; at < to; at += 64) {
      for (let i = 0, j = at; i < 16; i++, j += 4) {
        w[i] = (data[j] << 24) | (data[j + 1] << 16) | (data[j + 2] << 8) | data[j + 3];
      }
      for (let i = 16; i < 64; i++) {
        const x = w[i - 15];
        const y = w[i - 2];
        const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
        const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
        w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
      }
      let a = a0;
      let b = b0;
      let c = c0;
      let d = d0;
      let e = e0;
      let f = f0;
      let g = g0;
      let h = h0;
      for (let i = 0; i < 64; i++) {
        const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
        const t1 = (h + s1 + (g ^ (e & (f ^ g))) + k[i] + w[i]) | 0;
        const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
        const t2 = (s0 + ((a & b) | (c & (a | b)))) | 0;
        h = g;
        g = f;
        f = e;
        e = (d + t1) | 0;
        d = c;
        c = b;
        b = a;
        a = (t1 + t2) | 0;
      }
      a0 = (a0 + a) | 0;
      b0 = (b0 + b) | 0;
      c0 = (c0 + c) | 0;
      d0 = (d0 + d) | 0;
      e0 = (e0 + e) | 0;
      f0 = (f0 + f) | 0;
      g0 = (g0 + g) | 0;
      h0 = (h0 + h) | 0;
    }
    state.set([a0, b0, c0, d0, e0, f0, g0, h0]);
  }
}

const sha256Hex = (data) => hex(new Sha256().update(data).digest());

const TWO_32 = 4294967296;

/** The upper and lower half of (high, low) turned right by some bits, XORed into `into`. */
function turn(into, high, low, bits) {
  if (bits >= 32) [high, low, bits] = [low, high, bits - 32];
  into[0] ^= (high >>> bits) | (low << (32 - bits));
  into[1] ^= (low >>> bits) | (high << (32 - bits));
}

function shift(into, high, low, bits) {
  into[0] ^= high >>> bits;
  into[1] ^= (low >>> bits) | (high << (32 - bits));
}

class Sha512 extends Sha2 {
  constructor() {
    super(128);
    this.high = Int32Array.from(START_HIGH);
    this.low = Int32Array.from(START_LOW);
  }

  result() {
    const bytes = new Uint8Array(64);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < 8; i++) {
      view.setInt32(8 * i, this.high[i]);
      view.setInt32(8 * i + 4, this.low[i]);
    }
    return bytes;
  }

  compress(data, from, to) {
    const high = new Int32Array(80);
    const low = new Int32Array(80);
    for (let at = from; at < to; at += 128) {
      const view = new DataView(data.buffer, data.byteOffset + at, 128);
      for (let i = 0; i < 16; i++) {
        high[i] = view.getInt32(8 * i);
        low[i] = view.getInt32(8 * i + 4);
      }
      for (let i = 16; i < 80; i++) {
        const [s0, s1] = [
          [0, 0],
          [0, 0],
        ];
        turn(s0, high[i - 15], low[i - 15], 1);
        turn(s0, high[i - 15], low[i - 15], 8);
        shift(s0, high[i - 15], low[i - 15], 7);
        turn(s1, high[i - 2], low[i - 2], 19);
        turn(s1, high[i - 2], low[i - 2], 61);
        shift(s1, high[i - 2], low[i - 2], 6);
        const sum = (low[i - 16] >>> 0) + (s0[1] >>> 0) + (low[i - 7] >>> 0) + (s1[1] >>> 0);
        high[i] = high[i - 16] + s0[0] + high[i - 7] + s1[0] + Math.floor(sum / TWO_32);
        low[i] = sum;
      }
      this.rounds(high, low);
    }
  }

  rounds(high, low) {
    const [up, down] = [Array.from(this.high), Array.from(this.low)]; // a to h
    for (let i = 0; i < 80; i++) {
      const [s0, s1] = [
        [0, 0],
        [0, 0],
      ];
      for (const bits of [28, 34, 39]) turn(s0, up[0], down[0], bits);
      for (const bits of [14, 18, 41]) turn(s1, up[4], down[4], bits);
      const choice = [up[6] ^ (up[4] & (up[5] ^ up[6])), down[6] ^ (down[4] & (down[5] ^ down[6]))];
      const majority = [
        (up[0] & up[1]) | (up[2] & (up[0] | up[1])),
        (down[0] & down[1]) | (down[2] & (down[0] | down[1])),
      ];
      const one = (down[7] >>> 0) + (s1[1] >>> 0) + (choice[1] >>> 0) + (ROUND_LOW[i] >>> 0) + (low[i] >>> 0);
      const oneHigh = (up[7] + s1[0] + choice[0] + ROUND_HIGH[i] + high[i] + Math.floor(one / TWO_32)) | 0;
      const two = (s0[1] >>> 0) + (majority[1] >>> 0) + (one % TWO_32);
      const fourth = (down[3] >>> 0) + (one % TWO_32);
      up.pop();
      down.pop();
      up.unshift((oneHigh + s0[0] + majority[0] + Math.floor(two / TWO_32)) | 0);
      down.unshift(two | 0);
      up[4] = (up[4] + oneHigh + Math.floor(fourth / TWO_32)) | 0;
      down[4] = fourth | 0;
    }
    for (let i = 0; i < 8; i++) {
      const sum = (this.low[i] >>> 0) + (down[i] >>> 0);
      this.high[i] += up[i] + Math.floor(sum / TWO_32);
      this.low[i] = sum;
    }
  }
}
