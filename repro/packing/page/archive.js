// A bundle's bytes, whole or in parts, and everything in which they differ from its list: what
// repro/packing/installer/archive.py does. A file is read by pieces (Blob.slice), so that memory stays flat.

const CHUNK_BYTES = 2 << 20;
const WINDOW_BYTES = 256 << 10;
const MOST_LIST_BYTES = 32 << 20;
const PART = /^(.+\.tar)\.([0-9]{1,3})(?:;[0-9]+)?$/i;
const WHOLE = /^.+\.tar(?:;[0-9]+)?$/i;

/** A bundle's bytes as one sequence, whether they lie in one file or in parts. */
class Archive {
  /** @param files File objects in order; @param told is called with each count of bytes that were hashed. */
  constructor(files, told = () => {}) {
    this.files = files;
    this.told = told;
    this.ends = [];
    for (const file of files) this.ends.push((this.ends.at(-1) || 0) + file.size);
    this.totalBytes = this.ends.at(-1);
    this.window = { start: 0, bytes: new Uint8Array(0) };
  }

  async open() {
    const header = await this.read(0, BLOCK);
    const digits = String.fromCharCode(...header.subarray(124, 135));
    const size = /^[0-7]{11}$/.test(digits) ? parseInt(digits, 8) : -1;
    if (!(0 < size && size <= MOST_LIST_BYTES) || !sameBytes(header, tarHeader(LIST_NAME, size, false))) {
      throw new Refused(
        3,
        `${this.files[0].name} does not begin as a bundle does: another file, or its first header was changed`,
      );
    }
    this.envelope = await this.read(BLOCK, size);
    this.listing = await readListing(this.envelope);
    return this;
  }

  /** What a part that is not here would be called, counted from 1. */
  partName(number) {
    const found = PART.exec(this.files[0].name);
    return `${found ? found[1] : this.files[0].name}.${String(number).padStart(3, "0")}`;
  }

  /** The names of the files in which some bytes lie. */
  place(offset, size) {
    const last = offset + Math.max(size, 1);
    const start = (number) => (number ? this.ends[number - 1] : 0);
    const names = this.files.filter((_, number) => start(number) < last && offset < this.ends[number]);
    if (!names.length) return "behind the last part";
    const first = `in ${names[0].name}`;
    return names.length === 1 ? first : `${first} to ${names.at(-1).name}: one of these ${names.length}`;
  }

  /** A listed file's content; null where the list does not name it, or an earlier bundle carries it. */
  async content(path) {
    this.byPath ||= new Map(this.listing.entries.map((entry) => [entry.path, entry]));
    const entry = this.byPath.get(path);
    return !entry || entry.offset < 0 ? null : this.load(entry.content, entry.size);
  }

  /** Some bytes, fewer than asked for where the archive ends; nothing of them is kept. */
  async load(offset, size) {
    const bytes = new Uint8Array(Math.max(0, Math.min(size, this.totalBytes - offset)));
    let done = 0;
    for (let number = 0; done < bytes.length; number++) {
      if (offset + done >= this.ends[number]) continue;
      const inside = offset + done - (number ? this.ends[number - 1] : 0);
      const file = this.files[number];
      const piece = file.slice(inside, Math.min(file.size, inside + bytes.length - done));
      const read = new Uint8Array(await piece.arrayBuffer().catch((error) => this.unreadable(file, error)));
      if (read.length === bytes.length) return read;
      bytes.set(read, done);
      done += read.length;
    }
    return bytes;
  }

  unreadable(file, error) {
    throw new Refused(4, `${file.name} cannot be read: ${error.message}`, "choose the files again");
  }

  /** The same for little ones, through a window: neighbours are read at once. */
  async read(offset, size) {
    const end = Math.min(offset + size, this.totalBytes);
    if (offset >= end) return new Uint8Array(0);
    const { start, bytes } = this.window;
    if (offset < start || end > start + bytes.length) {
      this.window = { start: offset, bytes: await this.load(offset, Math.max(size, WINDOW_BYTES)) };
    }
    return this.window.bytes.subarray(offset - this.window.start, end - this.window.start);
  }

  /** The digest of some bytes, fewer than asked for where the archive ends. */
  async sha256(offset, size) {
    const digest = new Sha256();
    if (size <= WINDOW_BYTES) {
      this.told(size);
      return hex(digest.update(await this.read(offset, size)).digest());
    }
    const end = Math.min(offset + size, this.totalBytes);
    let next = this.load(offset, Math.min(CHUNK_BYTES, end - offset));
    for (let at = offset; at < end; at += CHUNK_BYTES) {
      const chunk = await next;
      const behind = at + CHUNK_BYTES;
      if (behind < end) next = this.load(behind, Math.min(CHUNK_BYTES, end - behind)); // while this one is hashed
      digest.update(chunk);
      this.told(chunk.length);
    }
    return hex(digest.digest());
  }
}

/** All parts of one bundle, in order, however a file system or a tool spelled their names. */
function orderedFiles(files) {
  if (!files.length) throw new Refused(4, "no bundle was chosen", "choose the bundle's file, or all of its parts");
  const numberOf = (file) => Number((PART.exec(file.name) || [0, 0, 0])[2]);
  const isPart = (file) => PART.test(file.name);
  const firsts = files.length === 1 ? files : files.filter((file) => WHOLE.test(file.name) || numberOf(file) === 1);
  if (firsts.length !== 1) {
    throw new Refused(4, `${firsts.length} bundles were chosen`, "choose one bundle's file, or all of its parts");
  }
  if (!isPart(firsts[0])) return firsts;
  const stem = PART.exec(firsts[0].name)[1];
  const found = new Map();
  const beside = files.filter((file) => isPart(file) && PART.exec(file.name)[1].toLowerCase() === stem.toLowerCase());
  for (const file of beside.sort((one, other) => byCodePoint(one.name, other.name))) {
    const number = numberOf(file);
    if (found.has(number)) {
      const other = found.get(number).name;
      throw new Refused(4, `${other} and ${file.name} are both part ${number}`, "leave one of them there");
    }
    found.set(number, file);
  }
  for (let number = 1; number <= Math.max(...found.keys()); number++) {
    if (!found.has(number)) {
      const name = `${stem}.${String(number).padStart(3, "0")}`;
      throw new Refused(
        4,
        `part ${number} is missing: ${name}`,
        "choose all parts together; their names end in .001, .002 and so on",
      );
    }
  }
  if (found.has(0)) {
    throw new Refused(
      4,
      `${found.get(0).name}: parts are numbered from 1`,
      "give the parts the names that they were packed with",
    );
  }
  return [...found.keys()].sort((one, other) => one - other).map((number) => found.get(number));
}

/** What the sizes of the parts say: missing, surplus, cut short. */
function checkParts(archive) {
  const { about, totalBytes } = archive.listing;
  const size = about.part_size_bytes;
  const count = size ? Math.ceil(totalBytes / size) : 1;
  const found = archive.files.length;
  if (found < count) {
    throw new Refused(
      4,
      `${found} of ${count} parts are here; missing: ${archive.partName(found + 1)} onwards`,
      "bring all parts into one folder",
    );
  }
  const surplus = archive.files.slice(count);
  const failures = surplus.map((file) => `${file.name} is one part too many: the bundle has ${count}`);
  archive.files.slice(0, count).forEach((file, number) => {
    const wanted = size ? Math.min(size, totalBytes - size * number) : totalBytes;
    if (file.size === wanted) return;
    const what = file.size < wanted ? "was cut short" : "is too long";
    failures.push(`${file.name} ${what}: ${file.size} bytes instead of ${wanted}`);
  });
  return failures;
}

/** Parts that begin like another one: known by the first header that lies in each. */
async function checkOrder(archive) {
  const size = archive.listing.about.part_size_bytes;
  if (!size) return [];
  const heads = new Map([[0, [0, tarHeader(LIST_NAME, archive.envelope.length, false)]]]);
  for (const entry of archive.listing.entries) {
    const number = Math.floor(entry.offset / size);
    const inside = entry.offset - number * size;
    if (entry.offset < 0 || inside + entry.content - entry.offset > size || heads.has(number)) continue;
    heads.set(number, [inside, tarHeader(entry.path, entry.size, entry.executable)]);
  }
  const failures = [];
  for (const [number, file] of archive.files.entries()) {
    const alone = new Archive([file]);
    const fits = async ([inside, head]) => sameBytes(await alone.load(inside, head.length), head);
    if (heads.has(number) && (await fits(heads.get(number)))) continue;
    for (const [part, expected] of heads) {
      if (!(await fits(expected))) continue;
      failures.push(`${file.name} holds part ${part + 1}, not part ${number + 1}: swapped or repeated`);
      break;
    }
  }
  return failures;
}

function oddHeader(header, entry) {
  const found = readHeader(header.subarray(Math.max(0, header.length - BLOCK)));
  if (found === null) return "its header in the archive was changed";
  if (!found.plain) return `a link, device or other special entry ${quoted(found.name)} stands in its place`;
  if (found.name !== entry.path) {
    return `the entry ${quoted(found.name)} stands in its place: extra, missing or out of order`;
  }
  return "its header in the archive was changed";
}

const isZeros = (bytes, size) => bytes.length === size && bytes.every((byte) => byte === 0);

/** Everything in which one file differs from the list. */
async function checkEntry(archive, entry) {
  const place = (offset, size) =>
    archive.files.length > 1 ? `${entry.path} (${archive.place(offset, size)})` : entry.path;
  const failures = [];
  const headerBytes = entry.content - entry.offset;
  const header = await archive.read(entry.offset, headerBytes);
  if (!sameBytes(header, tarHeader(entry.path, entry.size, entry.executable))) {
    failures.push(`${place(entry.offset, headerBytes)}: ${oddHeader(header, entry)}`);
  }
  const digest = await archive.sha256(entry.content, entry.size);
  if (digest !== entry.sha256) {
    const where = place(entry.content, entry.size);
    failures.push(`${where}: its content has sha256 ${digest}, listed is ${entry.sha256}`);
  }
  const [behind, padding] = [entry.content + entry.size, paddingBytes(entry.size)];
  if (!isZeros(await archive.read(behind, padding), padding)) {
    failures.push(`${place(behind, padding)}: the zeros behind it were changed`);
  }
  return failures;
}

/** Everything that differs between a bundle's bytes and its list, file by file. `hasher` checks the entries. */
async function checkBytes(archive, hasher) {
  const failures = checkParts(archive);
  failures.push(...(await checkOrder(archive)));
  failures.push(
    ...(await hasher(
      archive,
      archive.listing.entries.filter((entry) => entry.offset >= 0),
    )),
  );
  const zeros = paddingBytes(archive.envelope.length);
  if (!isZeros(await archive.read(BLOCK + archive.envelope.length, zeros), zeros)) {
    failures.push(`${LIST_NAME}: the zeros behind it were changed`);
  }
  const end = archive.listing.totalBytes - 2 * BLOCK;
  if (!isZeros(await archive.read(end, 2 * BLOCK + 1), 2 * BLOCK)) {
    failures.push(`${archive.files.at(-1).name}: the archive's end was changed, or something follows it`);
  }
  return failures;
}
