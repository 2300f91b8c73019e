// Headers of a tar archive: the one that must stand before a file, and what another one says of itself.

const BLOCK = 512;
const MTIME = 1667260800; // as in repro/packing/installer/listing.py

const paddingBytes = (size) => (BLOCK - (size % BLOCK)) % BLOCK;

/** The checksum of a header: the sum of its bytes, its own field counted as spaces. Old tars added signed bytes. */
function checksums(block) {
  let [unsigned, signed] = [256, 256];
  block.forEach((byte, place) => {
    if (place >= 148 && place < 156) return;
    unsigned += byte;
    signed += byte < 128 ? byte : byte - 256;
  });
  return [unsigned, signed];
}

function ustar(name, size, mode, mtime, kind) {
  const block = new Uint8Array(BLOCK);
  const put = (place, text) => block.set(bytesOf(text), place);
  const octal = (number, digits) => number.toString(8).padStart(digits, "0");
  put(0, name.slice(0, 100));
  put(100, octal(mode, 7));
  put(108, octal(0, 7));
  put(116, octal(0, 7));
  put(124, octal(size, 11));
  put(136, octal(mtime, 11));
  put(156, kind);
  put(257, "ustar\0" + "00");
  put(148, octal(checksums(block)[0], 6) + "\0 ");
  return block;
}

/** One record of a pax header: its length, which counts itself, the keyword and the value. */
function paxRecord(keyword, value) {
  const rest = ` ${keyword}=${value}\n`;
  const restBytes = bytesOf(rest).length;
  let length = restBytes;
  while (String(length).length + restBytes !== length) length = String(length).length + restBytes;
  return length + rest;
}

/** What stands before a file's content. */
function tarHeader(path, size, executable) {
  let records = path.length > 100 || /[^\x00-\x7f]/.test(path) ? paxRecord("path", path) : "";
  if (size >= 8 ** 11) records += paxRecord("size", size);
  const block = ustar(
    path.replace(/[^\x00-\x7f]/gu, "?"),
    size >= 8 ** 11 ? 0 : size,
    executable ? 0o755 : 0o644,
    MTIME,
    "0",
  );
  if (!records) return block;
  const payload = bytesOf(records);
  const whole = new Uint8Array(BLOCK + payload.length + paddingBytes(payload.length) + BLOCK);
  whole.set(ustar("././@PaxHeader", payload.length, 0, 0, "x"));
  whole.set(payload, BLOCK);
  whole.set(block, whole.length - BLOCK);
  return whole;
}

/** A text field: up to the first zero byte. */
function fieldText(block, from, to) {
  const field = block.subarray(from, to);
  const end = field.indexOf(0);
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(end < 0 ? field : field.subarray(0, end));
}

/** A number field as Python reads it: octal digits, or a base-256 number behind a marked first byte. null for none. */
function fieldNumber(block, from, to) {
  if (block[from] === 0o200 || block[from] === 0o377) return -1; // any such number: no checksum is that large
  const text = fieldText(block, from, to).replace(/^[\s\x1c-\x1f]+|[\s\x1c-\x1f]+$/g, "");
  if (/[^\x00-\x7f]/.test(text) || !/^(?:[+-]?(?:0[oO]_?)?[0-7]+(?:_[0-7]+)*)?$/.test(text)) return null;
  const digits = text.replace(/[oO_+-]/g, "");
  return text.startsWith("-") ? -parseInt(digits, 8) : parseInt(digits || "0", 8);
}

/** What a header of 512 bytes says of itself, {name, plain}; null where it is none. */
function readHeader(block) {
  if (block.length !== BLOCK || block.every((byte) => byte === 0)) return null;
  if (!checksums(block).includes(fieldNumber(block, 148, 156))) return null;
  let kind = String.fromCharCode(block[156]);
  const numbers = [
    [100, 108],
    [108, 116],
    [116, 124],
    [124, 136],
    [136, 148],
    [329, 337],
    [337, 345],
  ];
  if (kind === "S") numbers.push([483, 495], ...[0, 1, 2, 3, 4, 5, 6, 7].map((n) => [386 + 12 * n, 398 + 12 * n])); // sparse
  if (numbers.some(([from, to]) => fieldNumber(block, from, to) === null)) return null;
  let name = fieldText(block, 0, 100);
  const prefix = fieldText(block, 345, 500);
  if (kind === "\0" && name.endsWith("/")) kind = "5";
  if (kind === "5") name = name.replace(/\/+$/, "");
  if (prefix && !"LKS".includes(kind)) name = `${prefix}/${name}`;
  return { name, plain: "0\u00007S".includes(kind) };
}
