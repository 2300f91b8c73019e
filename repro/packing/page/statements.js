// The statements that a bundle carries, or that lie beside it: who signed each, and whether it fits the bundle. What
// repro/packing/installer/statements.py and rebuilders.py do.

const ATTESTATIONS = "attestations/";
const BLOBS = "tree/artifacts/oci/blobs/sha256/";
const TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1";
const SUMMARY = "https://slsa.dev/verification_summary/v1";
const OUTCOMES = ["PASSED", "WARNED", "FAILED"];
const SIGSTORE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json";
const [DSSE, SIGSTORE, KEYS] = [".dsse.json", ".sigstore.json", "keys/"];
const MOST_STATEMENT_BYTES = 64 << 20;
const MOST_CONFIG_BYTES = 1 << 20; // of an image; what lies beside it in artifacts/oci may be gigabytes

const wordsOf = (error) => ascii(error.message) || "it is not built as it should be";

/** Run something; what it finds malformed becomes a text, by `otherwise`. */
async function orMalformed(work, otherwise) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Malformed) return otherwise(error);
    throw error;
  }
}

/** One statement. `signer` is a fingerprint, "" where nobody signed; `sha256` is that of the payload. */
class Statement {
  constructor(name, signer, document, sha256) {
    Object.assign(this, { name, signer, document, sha256 });
    this.kind = String(document.predicateType);
    this.digests = new Map(
      items(document.subject).map((item) => [
        String(member(member(item, "digest"), "sha256")),
        String(member(item, "name")),
      ]),
    );
    if (!this.digests.size || !isObject(document.predicate)) throw new Malformed("it speaks of nothing");
    const { result, verificationResult } = document.predicate;
    this.result = [result, verificationResult, ""].find((value) => typeof value === "string" && value) || "";
    this.tests(OUTCOMES);
  }

  /** The names of a test result's tests that had one of some outcomes. */
  tests(outcomes) {
    const lists = outcomes.map((word) => this.document.predicate[`${word.toLowerCase()}Tests`] ?? []);
    return new Set(lists.flatMap(items).map(String));
  }

  /** Whether it says how a rebuild of one layer or image ended. */
  get isRebuild() {
    const tests = this.tests(OUTCOMES);
    return this.kind === TEST_RESULT && this.document.subject.length === 1 && tests.size === 1 && tests.has("rebuild");
  }

  /** Whether the result is that of the worst test; a summary's needs only to be one. */
  get isConsistent() {
    if (this.kind === SUMMARY) return this.result === "PASSED" || this.result === "FAILED";
    const worst = [...OUTCOMES].reverse().find((outcome) => this.tests([outcome]).size) || "";
    return worst !== "" && this.result === worst;
  }
}

async function readStatement(name, envelope, keys) {
  try {
    const { payload, statement, signatures } = opened("the statement", envelope);
    const keyOf = (fingerprint) => {
      if (!keys.has(fingerprint))
        throw new Malformed(`the key ${ascii(String(fingerprint))} that it names is not beside it`);
      return keys.get(fingerprint);
    };
    const signer = await signerOfPayload(signatures, keyOf, payload);
    return new Statement(name, signer, statement, sha256Hex(payload));
  } catch (error) {
    throw error instanceof Malformed ? new Malformed(wordsOf(error)) : error;
  }
}

function sigstoreBundle(envelope) {
  const document = parsed("the envelope", envelope);
  const verificationMaterial = { publicKey: { hint: document.signatures[0].keyid }, tlogEntries: [] };
  const dsseEnvelope = { ...document, signatures: document.signatures.map((each) => ({ ...each, keyid: "" })) };
  return canonical({ mediaType: SIGSTORE_TYPE, verificationMaterial, dsseEnvelope });
}

const pemOf = (key) =>
  `-----BEGIN PUBLIC KEY-----\n${base64Of(Uint8Array.from([...SPKI, ...key]))}\n-----END PUBLIC KEY-----\n`;

/** Every statement of a folder, and what is wrong with its files: [statements, lines]. */
async function readStatements(names, read, keys) {
  const content = new Map();
  let left = MOST_STATEMENT_BYTES; // of all together
  for (const name of [...names].sort(byCodePoint)) {
    const data = left >= 0 ? await read(name) : null;
    left -= data ? data.length : 0;
    content.set(name, left >= 0 ? data : null);
  }
  const [found, failures, known] = [[], [], new Map(keys)];
  for (const [name, data] of content) if (data === null) failures.push(`${name}: it cannot be read, or is too large`);
  for (const [name, data] of content) {
    if (!name.startsWith(KEYS) || data === null) continue;
    const pem = textOf(data);
    const key = await orMalformed(
      async () => publicKeyOf(pem),
      () => null,
    );
    if (key === null || pemOf(key) !== pem || name !== `${KEYS}${fingerprintOf(key)}.pem`) {
      failures.push(`${name}: it is not the public key of that fingerprint`);
    } else known.set(fingerprintOf(key), key);
  }
  for (const [name, data] of content) {
    const stem = name.endsWith(DSSE) ? name.slice(0, -DSSE.length) : "";
    const isTwin = name.endsWith(SIGSTORE) && content.has(name.slice(0, -SIGSTORE.length) + DSSE);
    if (data === null || name.startsWith(KEYS) || (!stem && isTwin)) continue;
    const wrong = (error) => void failures.push(`${name}: ${error.message}`);
    await orMalformed(async () => {
      if (!stem) throw new Malformed("it is no statement");
      const statement = await readStatement(stem, data, known);
      const twin = content.get(stem + SIGSTORE);
      if (statement.signer && (!twin || textOf(twin) !== sigstoreBundle(data))) {
        throw new Malformed(`${stem}${SIGSTORE} is not the Sigstore bundle of it`);
      }
      found.push(statement);
    }, wrong);
  }
  return [found, failures];
}

/** The key that the list names, by its fingerprint. */
function keyOfList(listing) {
  const pem = listing.about.public_key;
  const keys = pem ? [publicKeyOf(pem)] : [];
  return keys.map((key) => [fingerprintOf(key), key]);
}

/** What lies beside a bundle: files of statements and keys that were chosen with it. `rebuilders`: keys by fingerprint. */
async function readBeside(archive, files, rebuilders) {
  const byName = new Map(files.map((file) => [file.name.endsWith(".pem") ? KEYS + file.name : file.name, file]));
  const read = async (name) => {
    const file = byName.get(name);
    return file.size > MOST_STATEMENT_BYTES ? null : new Uint8Array(await file.arrayBuffer());
  };
  const { listing } = archive;
  const [found, wrong] = await readStatements(byName.keys(), read, [...rebuilders, ...keyOfList(listing)]);
  const again = new Set(found.filter((statement) => statement.sha256 === listing.sha256).map(({ signer }) => signer));
  const [first] = archive.files;
  const stem = PART.test(first.name) ? PART.exec(first.name)[1] : first.name;
  return {
    statements: found.filter((statement) => statement.sha256 !== listing.sha256),
    failures: wrong.map((line) => `${stem}.attestations/${ascii(line)}`),
    countersigners: [...again].filter((signer) => signer && signer !== listing.fingerprint).sort(),
  };
}

/** A listed file's content; nothing of one that no memory need hold: it is malformed, whatever it is. */
async function contentOf(archive, path) {
  const entry = archive.listing.entries.find((one) => one.path === path);
  return entry && entry.size > MOST_STATEMENT_BYTES ? new Uint8Array() : archive.content(path);
}

/** [architecture, name, entry] of each image in images.json. */
async function readImages(archive) {
  const data = await contentOf(archive, "images.json");
  try {
    const document = data === null ? {} : parsed("images.json", data);
    const found = Object.entries(object(document)).flatMap(([architecture, images]) =>
      Object.entries(object(images)).map(([name, image]) => [architecture, name, image]),
    );
    for (const [, , image] of found) {
      const texts = [member(image, "image_id"), member(image, "manifest_digest")];
      for (const layer of items(member(image, "layers"))) {
        texts.push(member(layer, "diff_id"), member(layer, "made_from"), member(layer, "name"));
      }
      if (!texts.every((value) => typeof value === "string")) throw new Malformed("a digest or a name is not text");
    }
    return found;
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new Malformed(`images.json is not a list of images: ${wordsOf(error)}`);
  }
}

function object(value) {
  if (!isObject(value)) throw new Malformed();
  return value;
}

/** Every digest of which a bundle's list or images.json speak. */
function digestsInside(listing, images) {
  const inside = new Set([listing.sha256, ...listing.entries.map((entry) => entry.sha256)]);
  for (const [, , image] of images) {
    inside.add(image.image_id.slice(7)).add(image.manifest_digest.slice(7));
    image.layers.forEach((layer) => inside.add(layer.diff_id.slice(7)));
  }
  return inside;
}

/** The digests that the carried records give for the outputs of stages. */
async function outputsInside(archive) {
  const found = new Set();
  for (const { path } of archive.listing.entries) {
    const data = path.endsWith("/record.json") ? await contentOf(archive, path) : null;
    const subjects = await orMalformed(
      async () => (data === null ? [] : runStatement(parsed("the record", data), "").subject),
      () => [], // of what is no record, nothing is known
    );
    for (const { digest } of subjects) if (digest.sha256) found.add(digest.sha256);
  }
  return found;
}

async function contradictionOf(statement, archive, images, inside) {
  if (statement.kind === PROVENANCE) return provenanceContradiction(statement, archive, images);
  if (statement.kind !== TEST_RESULT && statement.kind !== SUMMARY) {
    return `it is of a kind that nothing here reads: ${quoted(statement.kind)}`;
  }
  if (!statement.signer) return "nobody signed it";
  if (!statement.isConsistent) return "its result is not that of its tests";
  const known = (digests) => [...statement.digests.keys()].some((digest) => digests.has(digest));
  if (statement.isRebuild || known(inside) || known(await outputsInside(archive))) return "";
  const [sha256, name] = statement.digests.entries().next().value;
  return `it speaks of ${ascii(name)} sha256 ${ascii(sha256)}, which is not in this bundle`;
}

async function provenanceContradiction(statement, archive, images) {
  const { listing } = archive;
  if (statement.signer !== listing.fingerprint) return "it is not signed by the key that signed the list";
  const build = member(statement.document.predicate, "buildDefinition");
  let [made, source] = [null, ""];
  if (text(member(build, "buildType")).endsWith(":image:1")) {
    const asked = member(build, "externalParameters");
    const [architecture, name] = [member(asked, "architecture"), member(asked, "image")];
    const image = images.find(([one, other]) => one === architecture && other === name);
    if (!image) return `images.json has no image ${quoted(String(name))} for ${quoted(String(architecture))}`;
    [made, source] = [imageStatement(...image, listing.about.commit), "images.json and the commit"];
  } else {
    const sha256 = member(member(statement.document.subject[0], "digest"), "sha256");
    const path = (listing.entries.findLast((entry) => entry.sha256 === sha256) || { path: "" }).path;
    if (!path.endsWith("/record.json")) {
      return `it speaks of a record with sha256 ${ascii(String(sha256))}, which is not in this bundle`;
    }
    const data = await contentOf(archive, path);
    if (data === null) return ""; // it lies in an earlier bundle
    [made, source] = [runStatement(parsed("the record", data), sha256), path];
  }
  const different = firstDifference(statement.document, made);
  return different ? `it contradicts ${source}: ${different}` : "";
}

/** What contradicts an image's ID, which is the digest of a config that names the layers; "" for nothing. */
async function wrongConfig(archive, image) {
  const path = BLOBS + image.image_id.slice(7);
  const entry = archive.listing.entries.find((one) => one.path === path);
  if (!entry || entry.size > MOST_CONFIG_BYTES) return "has no config in artifacts/oci";
  const data = await contentOf(archive, path);
  if (data === null) return ""; // it lies in an earlier bundle
  const layers = await orMalformed(
    async () => items(member(member(parsed("a config", data), "rootfs"), "diff_ids")),
    () => [],
  );
  const wanted = image.layers.map((layer) => layer.diff_id);
  const same = layers.length === wanted.length && layers.every((layer, place) => layer === wanted[place]);
  return same ? "" : "has other layers than its config";
}

/** What of the images is not what its digest says: bytes of artifacts/oci, configs, and the locks of layers. */
async function imageFailures(archive, images) {
  const found = new Set();
  for (const { path, sha256 } of archive.listing.entries) {
    if (path.startsWith(BLOBS) && path.slice(BLOBS.length) !== sha256) found.add(`${path}: its bytes have another digest`);
  }
  for (const [architecture, name, image] of images) {
    const wrong = await wrongConfig(archive, image);
    if (wrong) found.add(`images.json: image ${ascii(name)} (${ascii(architecture)}) ${wrong}`);
  }
  for (const [architecture, , image] of images) {
    for (const layer of image.layers) {
      const [kind, ...rest] = layer.name.split(":");
      const lock = `conf/locks/${kind}/${rest.join(":")}.${architecture}.json`;
      const data = await contentOf(archive, `tree/${lock}`);
      if (data === null || layer.made_from === `sha256:${lockDigest(kind, data)}`) continue;
      found.add(`images.json: layer ${layer.name} (${architecture}) is not made from ${lock}`);
    }
  }
  return [...found];
}

/** Read every statement in a bundle, and hold these and those beside it to what the bundle's own files say. */
async function checkStatements(archive, beside, rebuilders) {
  const { listing } = archive;
  const paths = listing.entries.map((entry) => entry.path).filter((path) => path.startsWith(ATTESTATIONS));
  const names = paths.map((path) => path.slice(ATTESTATIONS.length));
  const read = (name) => contentOf(archive, ATTESTATIONS + name);
  const [carried, wrong] = await readStatements(names, read, [...rebuilders, ...keyOfList(listing)]);
  const statements = [...carried, ...beside.statements];
  const failures = [...wrong.map((line) => ATTESTATIONS + line), ...beside.failures];
  const images = await orMalformed(
    () => readImages(archive),
    (error) => error,
  );
  if (images instanceof Malformed) return { statements, failures: [...failures, images.message], images: [] };
  const inside = digestsInside(listing, images);
  for (const statement of statements) {
    const wrongHere = await orMalformed(
      () => contradictionOf(statement, archive, images, inside),
      (error) => `it cannot be held to the bundle: ${wordsOf(error)}`,
    );
    if (wrongHere) failures.push(`${statement.name}: ${wrongHere}`);
  }
  return { statements, failures: [...failures, ...(await imageFailures(archive, images))], images };
}

/** The public keys in a text of PEM blocks, as [fingerprint, key] pairs. */
function readRebuilders(pems, threshold) {
  if (!pems.trim() && threshold !== 1) {
    const message = `--threshold ${threshold} counts rebuilders, and none are named`;
    throw new Refused(2, message, "name them: --rebuilders KEYS");
  }
  if (!pems.trim()) return [];
  const blocks =
    pems.replaceAll("\r\n", "\n").match(/-----BEGIN PUBLIC KEY-----\n[^-]*-----END PUBLIC KEY-----\n?/g) || [];
  try {
    if (!blocks.length) throw new Malformed("it holds no public key in PEM");
    return [...new Map(blocks.map(publicKeyOf).map((key) => [fingerprintOf(key), key]))];
  } catch (error) {
    if (!(error instanceof Malformed)) throw error;
    throw new Refused(2, `the rebuilders' keys: ${wordsOf(error)}`, "put the keys in PEM there, one after another");
  }
}

/** What the rebuilders say of each image, of its ID or of one of its layers: who contradicts does not confirm. */
function countRebuilders(images, statements, rebuilders) {
  const trusted = rebuilders.map(([fingerprint]) => fingerprint).sort();
  const said = new Set();
  for (const statement of statements.filter(({ signer, isRebuild }) => trusted.includes(signer) && isRebuild)) {
    for (const sha256 of statement.digests.keys()) said.add(`${statement.signer} ${sha256} ${statement.result}`);
  }
  return images.map(([architecture, name, image]) => {
    const identity = image.image_id.slice(7);
    const every = [identity, ...image.layers.map((layer) => layer.diff_id.slice(7))];
    const against = trusted.filter((who) => every.some((digest) => said.has(`${who} ${digest} FAILED`)));
    const agree = trusted.filter((who) => !against.includes(who) && said.has(`${who} ${identity} PASSED`));
    const silent = trusted.filter((who) => !against.includes(who) && !agree.includes(who));
    return { image: `image ${name} (${architecture})`, confirmed: agree, contradicted: against, silent };
  });
}

function rebuiltSentence({ image, confirmed, contradicted, silent }) {
  const said = [
    ["confirmed", confirmed],
    ["contradicted", contradicted],
    ["nothing said", silent],
  ];
  const words = said.filter(([, keys]) => keys.length).map(([word, keys]) => `${word} by ${keys.join(", ")}`);
  return `${image}: ${words.join("; ")}`;
}

/** Hold every image to a number of rebuilders who confirm it. */
function insistOnRebuilders(rebuilt, threshold) {
  const counts = rebuilt.map((item) => item.confirmed.length + item.contradicted.length + item.silent.length);
  const keys = Math.max(0, ...counts);
  if (!(1 <= threshold && threshold <= Math.max(keys, 1))) {
    const message = `--threshold ${threshold} cannot be met by ${keys} rebuilders`;
    throw new Refused(2, message, "name more keys, or fewer to agree");
  }
  const few = rebuilt.filter((item) => item.confirmed.length < threshold);
  if (!few.length && rebuilt.length) return;
  throw new Refused(
    few.some((item) => item.contradicted.length) ? 3 : 4,
    `${few.length} of ${rebuilt.length} images are confirmed by fewer than ${threshold} rebuilders`,
    "a rebuilder runs `invoke audit.challenge --sign KEY`; put the statements beside the bundle",
    few.map(rebuiltSentence),
  );
}
