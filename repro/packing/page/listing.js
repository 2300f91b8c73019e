// The signed list of a bundle: what repro/packing/installer/listing.py does, check by check, in the same order.

const LIST_NAME = "list.dsse.json";
const PAYLOAD_TYPE = "application/vnd.in-toto+json";
const STATEMENT_TYPE = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE = "urn:lstm-ctc-bundle:list:1";
const FORMAT = 1;
const MOST_BYTES = 2 ** 53;
const SPKI = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ABOUT = ["base", "commit", "contents", "format", "name", "part_size_bytes", "public_key", "unpacked_bytes"];
const ABOUT_TOO = ["architectures", "pythons", "runs"];

const isFingerprint = (text) => /^[0-9a-f]{64}$/.test(text);
const fingerprintOf = (key) => sha256Hex(Uint8Array.from([...SPKI, ...key]));

/** What DSSE signs. */
function pae(type, payload) {
  const head = bytesOf(`DSSEv1 ${type.length} ${type} ${payload.length} `);
  const whole = new Uint8Array(head.length + payload.length);
  whole.set(head);
  whole.set(payload, head.length);
  return whole;
}

/** The 32 bytes in a PEM public key. */
function publicKeyOf(pem) {
  if (typeof pem !== "string") throw new Malformed();
  const found = /^-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=\n]+)\n-----END PUBLIC KEY-----\n?$/.exec(pem);
  const der = found ? decoded("the public key", found[1].replaceAll("\n", "")) : [];
  if (der.length !== 44 || !SPKI.every((byte, place) => der[place] === byte)) {
    throw new Malformed("not a PEM public key of Ed25519");
  }
  return der.subarray(12);
}

const CARRIED = ["cache", "oci", "received", "wheels"]; // of artifacts/: a bundle's own
const CACHES = [".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"];
const OF_THE_USER = ["artifacts/oci/.lock", "conf/site.toml", "data/model-signers.pem", "data/user.lock.json"];

/** Whether a file would lie where a machine keeps what it made, or its user what he trusts. */
function isOfTheMachine(path) {
  const [top, ...steps] = path.toLowerCase().split("/");
  if (top !== "tree" || !steps.length) return path.toLowerCase() === "made-here";
  if (steps.some((step) => step === ".git" || step === "__pycache__") || steps.at(-1).endsWith(".pyc")) return true;
  if (steps[0].startsWith(".venv") || CACHES.includes(steps[0])) return true;
  if (steps[0] === "artifacts" && !CARRIED.includes(steps[1])) return true;
  return OF_THE_USER.includes(steps.join("/"));
}

/** What is wrong with the paths of a list, or "". */
function checkPaths(paths) {
  const [files, folders] = [new Map(), new Map()];
  for (const path of paths) {
    const steps = path.split("/");
    const odd = (step) =>
      step === "." || step === ".." || !/^[A-Za-z0-9._+@=,~ -]{1,255}$/.test(step) || /[ .]$/.test(step);
    if (steps.some(odd) || path.length > 240) {
      return `the list names the path ${quoted(path)}, which is absolute, climbs, or is not portable`;
    }
    if (isOfTheMachine(path)) {
      return `the list names ${quoted(path)}, a place for what is made on the machine or is its user's`;
    }
    if (files.has(path.toLowerCase())) {
      return `the list names ${quoted(path)} twice, or names that differ in case alone`;
    }
    files.set(path.toLowerCase(), path);
    for (let depth = 1; depth < steps.length; depth++) {
      const folder = steps.slice(0, depth).join("/");
      if (!folders.has(folder.toLowerCase())) folders.set(folder.toLowerCase(), folder);
      if (folders.get(folder.toLowerCase()) !== folder) {
        return `the folders of ${quoted(path)} and of another file differ in case alone`;
      }
    }
  }
  const clash = [...files.keys()].filter((path) => folders.has(path)).sort(byCodePoint);
  return clash.length ? `${quoted(files.get(clash[0]))} is listed as a file and as a folder` : "";
}

/** Members that nobody reads would be free to change: they are refused. */
function holdTo(what, value, needed, besides = []) {
  const found = isObject(value) ? Object.keys(value).filter((name) => !besides.includes(name)) : [];
  const odd = [...found.filter((name) => !needed.includes(name)), ...needed.filter((name) => !found.includes(name))];
  if (odd.length) throw new Malformed(`${what} has members too few or too many: ${odd.sort(byCodePoint).join(", ")}`);
}

const isSize = (value) => typeof value === "number" && value >= 0 && value < MOST_BYTES;

function checkAbout(statement, about) {
  const format = member(about, "format");
  const kinds = [statement._type, statement.predicateType];
  if (kinds[0] !== STATEMENT_TYPE || kinds[1] !== PREDICATE_TYPE || format !== FORMAT) {
    throw new Malformed(`this is not a list of format ${FORMAT}`);
  }
  holdTo("the list's predicate", about, ABOUT, ABOUT_TOO);
  for (const name of ["part_size_bytes", "unpacked_bytes"]) {
    if (!isSize(about[name])) throw new Malformed(`${name} is no proper number`);
  }
  const notes = member(about.contents, "licence_notes");
  if (typeof about.name !== "string" || checkPaths([about.name]) || /^[-.]|\//.test(about.name)) {
    throw new Malformed("its name is not a proper one");
  }
  if (!isObject(notes)) throw new Malformed();
  if (!Object.values(notes).every((note) => typeof note === "string")) {
    throw new Malformed("its licence notes are no texts");
  }
  for (const word of ["base", "commit"]) {
    if (typeof about[word] !== "string") throw new Malformed();
    if (!/^[0-9a-f]{0,64}$/.test(about[word])) throw new Malformed("its base or commit is not one");
  }
}

/** The files with their places, and where the archive's end begins. */
function readEntries(subjects, offset) {
  if (!Array.isArray(subjects)) throw new Malformed("its files are no list");
  const entries = [];
  for (const item of subjects) {
    holdTo("a file of the list", item, ["annotations", "digest", "name"]);
    const { name, annotations, digest } = item;
    if (typeof name !== "string") throw new Malformed("a file's name is no text");
    holdTo(`${name}: its digest`, digest, ["sha256"]);
    holdTo(`${name}: its annotations`, annotations, ["executable", "in_base", "size_bytes"]);
    const { executable, in_base: inBase, size_bytes: size } = annotations;
    if (!isSize(size) || typeof executable !== "boolean" || typeof inBase !== "boolean") {
      throw new Malformed(`${name} has no proper size or mode`);
    }
    if (typeof digest.sha256 !== "string") throw new Malformed();
    if (!isFingerprint(digest.sha256)) throw new Malformed(`${name} has no proper digest`);
    const entry = { path: name, sha256: digest.sha256, size, executable, offset: -1, content: -1 };
    entries.push(entry);
    const headerBytes = tarHeader(name, size, executable).length;
    if (inBase) continue;
    entry.offset = offset;
    entry.content = offset + headerBytes;
    offset += headerBytes + size + paddingBytes(size);
    if (offset >= MOST_BYTES) throw new Malformed("its files are larger than any disk");
  }
  return [entries, offset];
}

/** The fingerprint of the one key that signed a payload, "" where nobody did; `keyOf` gives the key of a fingerprint. */
async function signerOfPayload(signatures, keyOf, payload) {
  if (!Array.isArray(signatures) || signatures.some((item) => item === null || typeof item !== "object")) {
    throw new Malformed();
  }
  if (!signatures.length) return "";
  const proper = signatures.filter((item) => isObject(item) && Object.keys(item).sort().join() === "keyid,sig");
  if (proper.length !== 1) throw new Malformed();
  const key = keyOf(proper[0].keyid);
  const signature = decoded("the signature", proper[0].sig);
  const fingerprint = fingerprintOf(key);
  if (proper[0].keyid !== fingerprint || signatures.length !== 1)
    throw new Malformed("the signature names another key");
  if (!(await ed25519Holds(key, pae(PAYLOAD_TYPE, payload), signature))) {
    throw new Malformed("the signature does not hold: the content, the key or the signature was changed");
  }
  return fingerprint;
}

/** A DSSE envelope around an in-toto statement: {payload, statement, signatures}, the signatures unchecked. */
function opened(what, envelope, wholeNumbers = false) {
  const document = parsed("the envelope", envelope, true);
  holdTo("the envelope", document, ["payload", "payloadType", "signatures"]);
  const payload = decoded("the payload", document.payload);
  if (canonical({ ...document, payloadType: PAYLOAD_TYPE }) !== textOf(envelope)) {
    throw new Malformed("the envelope is not in its one spelling");
  }
  const statement = parsed(what, payload, wholeNumbers);
  holdTo(what, statement, ["_type", "predicate", "predicateType", "subject"]);
  if (canonical(statement) !== textOf(payload)) throw new Malformed(`${what} is not in its one spelling`);
  return { payload, statement, signatures: document.signatures };
}

async function readParts(envelope) {
  const { payload, statement, signatures } = opened("the list", envelope, true);
  const about = statement.predicate;
  checkAbout(statement, about);
  const [entries, end] = readEntries(statement.subject, BLOCK + envelope.length + paddingBytes(envelope.length));
  const fingerprint = await signerOfPayload(signatures, () => publicKeyOf(about.public_key), payload);
  return { entries, about, sha256: sha256Hex(payload), fingerprint, totalBytes: end + 2 * BLOCK };
}

/** The list in an envelope, its signature checked with the key that it names; trust in that key is another matter. */
async function readListing(envelope) {
  let listing;
  try {
    listing = await readParts(envelope);
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    const said = ascii(error.message || "it is not built as a list is");
    throw new Refused(3, `${LIST_NAME}: ${said}`, "this is not the bundle that was packed: get it again");
  }
  const wrong = checkPaths([LIST_NAME, ...listing.entries.map((entry) => entry.path)]);
  if (wrong) throw new Refused(3, wrong, "whoever signed this list meant harm or made a mistake: do not install it");
  return listing;
}
