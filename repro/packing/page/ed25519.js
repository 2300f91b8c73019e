// Ed25519, verification only (RFC 8032, 5.1.4 and 5.1.7): what repro/packing/installer/ed25519.py does, line by line.
// Where the browser has Ed25519 itself, both must agree.

const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const mod = (value) => ((value % P) + P) % P;

function power(base, exponent) {
  let result = 1n;
  for (let square = mod(base); exponent; exponent >>= 1n) {
    if (exponent & 1n) result = (result * square) % P;
    square = (square * square) % P;
  }
  return result;
}

const D = mod(-121665n * power(121666n, P - 2n));
const ROOT_OF_MINUS_1 = power(2n, (P - 1n) / 4n);
const ZERO_POINT = [0n, 1n, 1n, 0n];

function addPoints(p, q) {
  const a = mod((p[1] - p[0]) * (q[1] - q[0]));
  const b = ((p[1] + p[0]) * (q[1] + q[0])) % P;
  const c = (((2n * p[3] * q[3]) % P) * D) % P;
  const d = (2n * p[2] * q[2]) % P;
  const [e, f, g, h] = [b - a, d - c, d + c, b + a];
  return [mod(e * f), (g * h) % P, mod(f * g), mod(e * h)];
}

function multiplyPoint(scalar, point) {
  let result = ZERO_POINT;
  for (; scalar; scalar >>= 1n) {
    if (scalar & 1n) result = addPoints(result, point);
    point = addPoints(point, point);
  }
  return result;
}

const littleEndian = (bytes) => BigInt("0x" + (hex(Array.from(bytes).reverse()) || "0"));

function decodePoint(bytes) {
  let y = littleEndian(bytes);
  const sign = y >> 255n;
  y &= (1n << 255n) - 1n;
  if (y >= P) return null;
  const x2 = mod((y * y - 1n) * power(D * y * y + 1n, P - 2n));
  let x = power(x2, (P + 3n) / 8n);
  if (mod(x * x - x2)) x = (x * ROOT_OF_MINUS_1) % P;
  if (mod(x * x - x2) || (x === 0n && sign)) return null;
  if ((x & 1n) !== sign) x = P - x;
  return [x, y, 1n, (x * y) % P];
}

function encodePoint(point) {
  const inverse = power(point[2], P - 2n);
  const y = mod(point[1] * inverse) | ((mod(point[0] * inverse) & 1n) << 255n);
  return Array.from({ length: 32 }, (_, place) => Number((y >> BigInt(8 * place)) & 255n));
}

const BASE_POINT = [
  15112221349535400772501151409588531511454012693041857206046113283949847762202n,
  46316835694926478169428394003475163141307993866256225615783033603165251855960n,
  1n,
  mod(
    15112221349535400772501151409588531511454012693041857206046113283949847762202n *
      46316835694926478169428394003475163141307993866256225615783033603165251855960n,
  ),
];
const sameBytes = (one, other) => one.length === other.length && one.every((byte, place) => byte === other[place]);

/** Whether a signature (64 bytes) of a message holds for a public key (32 bytes); a key of small order is refused. */
function ed25519HoldsHere(publicKey, message, signature) {
  if (publicKey.length !== 32 || signature.length !== 64) return false;
  const point = decodePoint(publicKey);
  const scalar = littleEndian(signature.subarray(32));
  if (point === null || scalar >= L || sameBytes(encodePoint(multiplyPoint(8n, point)), encodePoint(ZERO_POINT))) {
    return false;
  }
  const state = new Sha512().update(signature.subarray(0, 32)).update(publicKey).update(message);
  const negative = [mod(-point[0]), point[1], point[2], mod(-point[3])];
  const hashed = multiplyPoint(littleEndian(state.digest()) % L, negative);
  return sameBytes(encodePoint(addPoints(multiplyPoint(scalar, BASE_POINT), hashed)), signature.subarray(0, 32));
}

/** The same by the browser: true or false, and null where it has no Ed25519 (or none for a page opened from disk). */
async function ed25519HoldsByBrowser(publicKey, message, signature) {
  try {
    const key = await crypto.subtle.importKey("raw", publicKey, "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", key, signature, message);
  } catch {
    return null;
  }
}

async function ed25519Holds(publicKey, message, signature) {
  if (!ed25519HoldsHere(publicKey, message, signature)) return false;
  return (await ed25519HoldsByBrowser(publicKey, message, signature)) !== false;
}
