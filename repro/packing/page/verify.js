// A verification as a whole: what `invoke bundle.verify` does with a bundle's files, and in the same words.

const [PROVEN, REFUTED, UNVERIFIED, ATTESTED] = ["proven here", "refuted", "could not verify", "attested"];
const RECOMPUTED = "recomputed from these bytes";
const MOST_FINDINGS = 40;

/** Fingerprints in a text, as they are compared: lower case, without colons. */
function fingerprintsIn(text) {
  const words = text.split(/[\s,;]+/).filter(Boolean);
  const found = words.map((word) => word.toLowerCase().replaceAll(":", ""));
  found.forEach((key, number) => {
    if (isFingerprint(key)) return;
    const message = `${quoted(shown(words[number], 80))} is not a key's fingerprint`;
    throw new Refused(2, message, "64 hex digits, told by the maker of the bundle");
  });
  return found;
}

/** How far a signer is trusted: "pinned", "unknown" or "unsigned". Nothing is remembered from one time to the next. */
function trustIn(fingerprint, named) {
  if (fingerprint && named.includes(fingerprint)) return "pinned";
  if (named.length) {
    const who = fingerprint ? `signed by the key ${fingerprint}` : "not signed";
    throw new Refused(
      3,
      `the bundle is ${who}, not by the key named: ${[...named].sort().join(", ")}`,
      "if its maker has a new key, learn its fingerprint from the maker, not from the bundle",
    );
  }
  return fingerprint ? "unknown" : "unsigned";
}

/** One sentence, and what was found of it. */
function claimOf(key, text, wrong, missing, evidence = [], kind = RECOMPUTED) {
  const status = wrong.length ? REFUTED : missing.length ? UNVERIFIED : kind === RECOMPUTED ? PROVEN : kind;
  let findings = [...wrong, ...missing];
  if (findings.length > MOST_FINDINGS) {
    findings = [...findings.slice(0, MOST_FINDINGS), `and ${findings.length - MOST_FINDINGS} more`];
  }
  const safe = (lines) => lines.map((line) => shown(line, 1000));
  return { key, text, kind, status, findings: safe(findings), evidence: safe(evidence) };
}

const BYTES_CLAIM = ["bundle-bytes", "every byte of the bundle is as its list says, nothing missing, no more"];
const SIGNATURE_CLAIM = ["bundle-signature", "the bundle's list is signed by a key that is trusted here"];
const STATEMENTS_CLAIM = [
  "statements",
  "each statement that the bundle carries is signed, and none contradicts the bundle",
];

/** The other keys that signed the list than the one that the trust lies in. */
function alsoSigned({ signer, countersigners, reliedOn }) {
  const others = [signer, ...countersigners].filter((key) => key && key !== reliedOn);
  return others.map((key) => `the list is also signed by ${key}`);
}

function signatureClaim(report) {
  const missing = [];
  if (!report.reliedOn) missing.push("nobody signed it");
  else if (report.trust === "unknown") {
    missing.push(
      `it is signed by ${report.reliedOn}, which is not trusted on this machine: learn the fingerprint from the maker by ` +
        "another way, and give it with --key",
    );
  }
  const evidence = [`signer ${report.reliedOn || "none"}, trust: ${report.trust}`];
  return claimOf(...SIGNATURE_CLAIM, [], missing, [...evidence, ...alsoSigned(report)]);
}

/** What a command would end with: exit code, message, what to do, every finding. */
function endingOf(name, report) {
  if (report.failures.length) {
    const message = `${name}: ${report.failures.length} things are not as the list says`;
    const hint = "do not use it: get the bundle again, and install it into a new folder";
    return { code: 3, message, hint, failures: report.failures };
  }
  if (report.trust === "unsigned") {
    const message = `${name}: every byte is as listed, but nobody signed the list`;
    return { code: 4, message, hint: "ask for a signed one", failures: [] };
  }
  if (report.trust === "unknown") {
    const message = `${name}: every byte is as listed and signed by ${report.signer}, which is not trusted on this machine`;
    const hint = "learn the fingerprint from the maker by another way: --key FINGERPRINT, or bundle.keys.trust";
    return { code: 4, message, hint, failures: [] };
  }
  return { code: 0, message: describe(report).join("\n"), hint: "", failures: [] };
}

/** Megabytes with one decimal, halves rounded to the even digit as Python does it. */
function megabytes(bytes) {
  const value = bytes / 1e6;
  return value % 1 === 0.25 ? `${Math.floor(value)}.2` : value.toFixed(1);
}

function describe(report) {
  const lines = [
    `verified: ${report.entries.length} files, ${megabytes(report.sizeBytes)} MB, every byte as listed`,
    `signed by a trusted key: ${report.reliedOn}`,
    ...alsoSigned(report),
    `list: sha256 ${report.listSha256}`,
    `repository: commit ${report.about.commit}`,
  ];
  if (report.about.base) lines.push(`a difference: it needs the bundle whose list has sha256 ${report.about.base}`);
  const count = report.statements.length;
  if (count) lines.push(`statements: ${count}, each signed, none contradicts the bundle`);
  const notes = Object.entries(report.about.contents.licence_notes).sort((one, other) => byCodePoint(one[0], other[0]));
  const told = notes.map(([name, note]) => `note: ${shown(name)}: ${shown(note)}`);
  return [...lines, ...report.rebuilt.map(rebuiltSentence), ...told];
}

/** Which of the chosen files lie beside a bundle, and are not it. */
const liesBeside = (file) => /\.(?:dsse\.json|sigstore\.json|pem)$/.test(file.name);

async function examine(files, asked, watch) {
  const named = fingerprintsIn(asked.keys);
  const rebuilders = readRebuilders(asked.rebuilders, asked.threshold);
  const archive = await new Archive(orderedFiles(files.filter((file) => !liesBeside(file)))).open();
  watch.known(archive);
  const { entries, about, sha256, fingerprint } = archive.listing;
  const beside = await readBeside(archive, files.filter(liesBeside), rebuilders);
  const signers = [fingerprint, ...beside.countersigners];
  const accepted = signers.find((key) => named.includes(key)) || "";
  const trust = trustIn(accepted || fingerprint, named);
  const failures = await checkBytes(archive, hasherFor(watch.told, watch.stopped));
  let checked = { statements: [], failures: [], images: [] };
  if (!failures.length) checked = await checkStatements(archive, beside, rebuilders);
  return {
    archive,
    entries,
    about,
    accepted,
    reliedOn: accepted || fingerprint,
    trust,
    listSha256: sha256,
    signer: fingerprint,
    countersigners: beside.countersigners,
    failures: [...failures, ...checked.failures],
    statements: checked.statements,
    images: checked.images,
    rebuilt: rebuilders.length ? countRebuilders(checked.images, checked.statements, rebuilders) : [],
    asksForRebuilders: rebuilders.length > 0,
    sizeBytes: entries.reduce((sum, entry) => sum + entry.size, 0),
  };
}

/** What a number of rebuilders adds: a refusal where too few confirm an image, or null. */
function rebuildersRefusal(report, threshold) {
  try {
    if (report.asksForRebuilders) insistOnRebuilders(report.rebuilt, threshold);
    return null;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const { code, message, hint, failures } = error;
    return { code, message, hint, failures };
  }
}

function claimsOf(report, refusal, threshold) {
  const evidence = [`${report.entries.length} files, ${report.sizeBytes} bytes; list sha256 ${report.listSha256}`];
  const claims = [claimOf(...BYTES_CLAIM, report.failures, [], evidence), signatureClaim(report)];
  if (report.failures.length) return claims;
  if (report.statements.length) {
    const said = report.statements.map(({ name, result, signer }) => {
      return `${name}: ${result ? `${result}, ` : ""}signed by ${signer || "nobody"}`;
    });
    claims.push(claimOf(...STATEMENTS_CLAIM, [], [], said, ATTESTED));
  }
  if (report.asksForRebuilders) {
    const text = `each image is confirmed by ${threshold} rebuilders`;
    const lines = refusal
      ? [refusal.message + (refusal.failures.length ? ` (${refusal.failures.join("; ")})` : "")]
      : [];
    const [wrong, missing] = refusal && refusal.code === 3 ? [lines, []] : [[], lines];
    claims.push(claimOf("rebuilders", text, wrong, missing, report.rebuilt.map(rebuiltSentence), ATTESTED));
  }
  return claims;
}

/**
 * Verify a bundle.
 *
 * @param files File objects: the bundle's file, or all of its parts, in any order; statements about it beside them.
 * @param asked {keys, rebuilders, threshold}: a text with the fingerprints to accept, "" for none; a text with the public
 *   keys of rebuilders in PEM, "" for none, and how many of them must confirm each image. May be left out.
 * @param watch {known(archive), told(bytes), stopped: an AbortSignal}; may be left out.
 * @returns {name, code, message, hint, failures, claims, report}: as bundle.verify would end; `report` is null where the
 *   list itself, its signer or a part that is missing ended the verification.
 */
async function verifyBundle(files, asked = {}, watch = {}) {
  const whole = { keys: "", rebuilders: "", threshold: 1, ...asked };
  const all = { known() {}, told() {}, stopped: new AbortController().signal, ...watch };
  try {
    const report = await examine(files, whole, all);
    const { name } = report.archive.files[0];
    const refusal = rebuildersRefusal(report, whole.threshold);
    const ending = endingOf(name, report);
    const claims = claimsOf(report, refusal, whole.threshold);
    return { name, ...(ending.code || !refusal ? ending : refusal), claims, report };
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const { code, message, hint, failures } = error;
    const [wrong, missing] = code === 3 ? [[message], []] : [[], [message]];
    const name = files.length ? files[0].name : "";
    return { name, code, message, hint, failures, claims: [claimOf(...BYTES_CLAIM, wrong, missing)], report: null };
  }
}
