// SLSA provenance of images and runs, made again from the bundle's own files and compared with the statements: what
// repro/packing/installer/provenance.py does.

const PROVENANCE = "https://slsa.dev/provenance/v1";

/** A text, or nothing that is built as it should be. */
function text(value) {
  if (typeof value !== "string") throw new Malformed();
  return value;
}

function items(value) {
  if (!Array.isArray(value)) throw new Malformed();
  return value;
}

/** An in-toto resource descriptor; `digest` is hex, with or without "sha256:". */
const named = (name, digest) => ({ name, digest: { sha256: text(digest).split(":").at(-1) } });

function provenance(subject, kind, build, run) {
  const buildDefinition = { buildType: `urn:lstm-ctc-bundle:${kind}:1`, internalParameters: {}, ...build };
  const runDetails = { builder: { id: "urn:lstm-ctc-bundle:builder:1" }, ...run };
  const predicate = { buildDefinition, runDetails };
  return { _type: STATEMENT_TYPE, predicateType: PROVENANCE, subject, predicate };
}

/** What an image was made from: its definition at a commit, and its layers' locks. */
function imageStatement(architecture, image, entry, commit) {
  const locks = entry.layers.map((layer) => named(`lock of ${layer.name}`, layer.made_from));
  const resolvedDependencies = [{ name: "repository", digest: { gitCommit: commit } }, ...locks];
  return provenance(
    [named("config", entry.image_id), named("manifest", entry.manifest_digest)],
    "image",
    { externalParameters: { architecture, image }, resolvedDependencies },
    { byproducts: entry.layers.map((layer) => named(`layer ${layer.name}`, layer.diff_id)) },
  );
}

/** What a run took (images, data, weights, code by stage) and gave (its record, and every stage's outputs). */
function runStatement(record, sha256) {
  const [data, checkpoint] = [member(record, "data"), member(record, "checkpoint")];
  const stages = items(member(record, "stages"));
  const images = Object.entries(member(record, "images")).sort((one, other) => byCodePoint(one[0], other[0]));
  const outputs = stages.map((stage) =>
    named(`output of ${member(stage, "key")}`, member(member(stage, "outputs"), "digest")),
  );
  const resolvedDependencies = [
    ...images.map(([name, digest]) => named(`image ${name}`, digest)),
    named(`data (${member(data, "kind")})`, member(data, "fingerprint")),
    named(`checkpoint (${member(checkpoint, "kind")})`, member(checkpoint, "sha256")),
    ...stages.map((stage) => named(`code of ${member(stage, "key")}`, member(stage, "code"))),
  ];
  return provenance(
    [named("record.json", sha256), ...outputs],
    "run",
    { externalParameters: member(record, "request"), resolvedDependencies },
    { metadata: { invocationId: member(member(record, "identity"), "sha256") } },
  );
}

/** The digest of a lock's content, which an image's layer names as made_from; "" for what is no lock. */
function lockDigest(kind, bytes) {
  try {
    const lock = parsed("a lock", bytes);
    const debs = kind === "debs";
    const platform = debs ? member(lock, "architecture") : `${member(lock, "architecture")} ${member(lock, "python")}`;
    const files = items(member(lock, debs ? "debs" : "wheels")).map((file) => [
      debs ? text(member(file, "path")).split("/").at(-1) : text(member(file, "filename")),
      text(member(file, "sha256")),
    ]);
    files.sort((one, other) => byCodePoint(one[0], other[0]) || byCodePoint(one[1], other[1]));
    return sha256Hex(bytesOf(canonical({ kind, platform, files })));
  } catch (error) {
    if (error instanceof Malformed) return "";
    throw error;
  }
}

/** Where two JSON values differ first, such as "subject[1].name"; "" where they are equal. */
function firstDifference(found, wanted, place = "") {
  const inside = [];
  if (isObject(found) && isObject(wanted)) {
    const names = [...new Set([...Object.keys(found), ...Object.keys(wanted)])].sort(byCodePoint);
    for (const name of names)
      inside.push([`${place}.${name}`.replace(/^\.+/, ""), found[name] ?? null, wanted[name] ?? null]);
  } else if (Array.isArray(found) && Array.isArray(wanted) && found.length === wanted.length) {
    found.forEach((item, number) => inside.push([`${place}[${number}]`, item, wanted[number]]));
  } else {
    const fractions = found instanceof Fraction && wanted instanceof Fraction;
    return (fractions ? found.value === wanted.value : found === wanted) ? "" : place || "the whole";
  }
  for (const [where, one, other] of inside) {
    const different = firstDifference(one, other, where);
    if (different) return different;
  }
  return "";
}
