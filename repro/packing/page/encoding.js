// Text, base64 and JSON, each in one spelling, and texts of strangers made safe to show. Where Python has a rule of its
// own (how it escapes, sorts and reads numbers), it is followed, so that both verifiers say the same of the same bytes.

/** Why a bundle is refused: exit code, what is wrong with what, what to do. */
class Refused extends Error {
  constructor(code, message, hint = "", failures = []) {
    super(message);
    Object.assign(this, { code, hint, failures });
  }
}

/** What is wrong with a list or a statement, in words that install.py gives as well; without any, "" stands for: it is
 *  not built as it should be. */
class Malformed extends Error {}

/** A number that is written as a fraction, which is another value than the same whole number. */
class Fraction {
  constructor(value) {
    this.value = value;
  }

  /** As Python writes it. */
  toString() {
    const [, sign, digits, exponent] = /^(-?)([0-9.]+)e(.*)$/.exec(
      (Object.is(this.value, -0) ? 0 : this.value).toExponential(),
    );
    const minus = sign || Object.is(this.value, -0) ? "-" : "";
    const plain = digits.replace(".", "");
    const power = Number(exponent);
    if (power < -4 || power >= 16) {
      return `${minus}${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
    }
    if (power < 0) return `${minus}0.${"0".repeat(-power - 1)}${plain}`;
    const whole = plain.padEnd(power + 1, "0");
    return `${minus}${whole.slice(0, power + 1)}.${whole.slice(power + 1) || "0"}`;
  }
}

const MOST_DIGITS = 19; // of a number
const MOST_DEPTH = 64; // of the list's JSON

/** UTF-8 as text, or null where it is none. */
function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

const bytesOf = (text) => new TextEncoder().encode(text);

function base64Of(bytes) {
  let letters = "";
  for (let at = 0; at < bytes.length; at += 32768) letters += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(letters);
}

/** The bytes of a base64 text in its one spelling. */
function decoded(what, text) {
  const whole = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
  if (
    typeof text === "string" &&
    text.length % 4 === 0 &&
    whole.test(text.slice(-4)) &&
    !/[^A-Za-z0-9+/=]/.test(text)
  ) {
    try {
      const letters = atob(text);
      const bytes = new Uint8Array(letters.length);
      for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
      if (btoa(letters) === text) return bytes;
    } catch {
      // not base64: refused below
    }
  }
  throw new Malformed(`${what} is not base64 in its one spelling`);
}

/** -1, 0 or 1 by code points, as Python sorts texts; JavaScript sorts by halves of them. */
function byCodePoint(one, other) {
  const [left, right] = [Array.from(one), Array.from(other)];
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    if (left[at] !== right[at]) return left[at].codePointAt(0) < right[at].codePointAt(0) ? -1 : 1;
  }
  return Math.sign(left.length - right.length);
}

const isObject = (value) =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Fraction);

/** A member that must be there. */
function member(value, name) {
  if (!isObject(value) || !Object.hasOwn(value, name)) throw new Malformed();
  return value[name];
}

/** A JSON reader of numbers of a bounded length, and of a bounded depth. Objects come without a prototype. */
class JsonReader {
  constructor(what, text, wholeNumbers) {
    Object.assign(this, { what, text, wholeNumbers, at: 0 });
  }

  fail() {
    throw new Malformed(`${this.what} is not JSON`);
  }

  whole() {
    const value = this.value(0);
    this.space();
    return this.at === this.text.length ? value : this.fail();
  }

  space() {
    while (" \t\n\r".includes(this.text[this.at] || "x")) this.at++;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found && found[0];
  }

  value(depth) {
    if (depth >= MOST_DEPTH) this.fail();
    this.space();
    const letter = this.text[this.at];
    if (letter === "{") return this.object(depth);
    if (letter === "[") return this.list(depth);
    if (letter === '"') return this.string();
    const word = this.match(/true|false|null/y);
    if (word) return { true: true, false: false, null: null }[word];
    return this.number();
  }

  number() {
    const constant = this.match(/NaN|-?Infinity/y);
    const text = constant || this.match(/-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/y) || this.fail();
    if (!/^-?[0-9]+$/.test(text)) {
      if (!this.wholeNumbers && !constant) return new Fraction(Number(text));
      throw new Malformed(`${text.slice(0, 30)} is not a whole number`);
    }
    if (text.length > MOST_DIGITS) throw new Malformed(`a number of ${text.length} digits`);
    const value = BigInt(text);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  string() {
    let end = this.at;
    let escapes;
    do {
      end = this.text.indexOf('"', end + 1);
      if (end < 0) this.fail();
      for (escapes = 0; this.text[end - 1 - escapes] === "\\"; escapes++);
    } while (escapes % 2);
    const text = this.text.slice(this.at, end + 1);
    this.at = end + 1;
    try {
      return JSON.parse(text);
    } catch {
      return this.fail();
    }
  }

  list(depth) {
    const items = [];
    this.at++;
    this.space();
    if (this.match(/\]/y)) return items;
    for (;;) {
      items.push(this.value(depth + 1));
      this.space();
      if (this.match(/\]/y)) return items;
      if (!this.match(/,/y)) this.fail();
    }
  }

  object(depth) {
    const members = Object.create(null);
    this.at++;
    this.space();
    if (this.match(/\}/y)) return members;
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') this.fail();
      const name = this.string();
      this.space();
      if (!this.match(/:/y)) this.fail();
      members[name] = this.value(depth + 1);
      this.space();
      if (this.match(/\}/y)) return members;
      if (!this.match(/,/y)) this.fail();
    }
  }
}

/** The value in some bytes of JSON. */
function parsed(what, bytes, wholeNumbers = false) {
  const text = textOf(bytes);
  if (text === null) throw new Malformed(`${what} is not JSON`);
  return new JsonReader(what, text, wholeNumbers).whole();
}

/** JSON with one spelling: members sorted, no white space. */
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (isObject(value)) {
    const names = Object.keys(value).sort(byCodePoint);
    return `{${names.map((name) => `${canonical(name)}:${canonical(value[name])}`).join(",")}}`;
  }
  if (typeof value === "string" && /\p{Cs}/u.test(value)) throw new Malformed(); // half a code point has no UTF-8
  if (value instanceof Fraction && !Number.isFinite(value.value)) throw new Malformed();
  return typeof value === "bigint" || value instanceof Fraction ? String(value) : JSON.stringify(value);
}

const codeOf = (code) =>
  code < 0x100
    ? `\\x${code.toString(16).padStart(2, "0")}`
    : code < 0x10000
      ? `\\u${code.toString(16).padStart(4, "0")}`
      : `\\U${code.toString(16).padStart(8, "0")}`;

/** A text as Python's ascii() shows it, with its quotes. */
function quoted(text) {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", [quote]: `\\${quote}` };
  const letters = Array.from(text, (letter) => {
    const code = letter.codePointAt(0);
    return named[letter] || (code >= 0x20 && code < 0x7f ? letter : codeOf(code));
  });
  return quote + letters.join("") + quote;
}

const ascii = (text) => quoted(text).slice(1, -1);

/** A text of a stranger with everything spelt out that a page would act on or hide, as repro/base/foreign.py does it. */
function shown(text, limit = 500) {
  const letters = Array.from(String(text));
  const cut = letters.length <= limit ? letters : [...letters.slice(0, limit), "…"];
  return cut
    .map((letter) => (letter !== " " && /[\p{C}\p{Z}]/u.test(letter) ? codeOf(letter.codePointAt(0)) : letter))
    .join("");
}
