// The outcome as audit.json, in the form that repro/audit writes, and as a page of its own without any script.

const STATUSES = [PROVEN, "true if rerun", ATTESTED, "claimed by both", REFUTED, UNVERIFIED];
const KINDS = [RECOMPUTED, "run again here", "true if rerun", ATTESTED, "claimed by both"];

/** Indented JSON with sorted members, one spelling for equal outcomes. */
function pretty(value, indent = "") {
  const inside = `${indent}  `;
  const block = (open, items, close) =>
    items.length ? `${open}\n${inside}${items.join(`,\n${inside}`)}\n${indent}${close}` : open + close;
  if (Array.isArray(value))
    return block(
      "[",
      value.map((item) => pretty(item, inside)),
      "]",
    );
  if (!isObject(value)) return JSON.stringify(value);
  const names = Object.keys(value).sort(byCodePoint);
  return block(
    "{",
    names.map((name) => `${JSON.stringify(name)}: ${pretty(value[name], inside)}`),
    "}",
  );
}

function auditJson(outcome) {
  const holding = (claim) => claim.status !== REFUTED && claim.status !== UNVERIFIED;
  const count = (names, of) => Object.fromEntries(names.map((name) => [name, outcome.claims.filter(of(name)).length]));
  const refuted = outcome.claims.find((claim) => claim.status === REFUTED);
  const { report } = outcome;
  const signer =
    report && (report.reliedOn ? `key ${report.reliedOn} (${report.trust})` : "nobody: the bundle is not signed");
  const list = report && { [`list of ${outcome.name}`]: report.listSha256 };
  const said = report && !report.failures.length ? report.statements : [];
  const statements = said.map(({ name, sha256 }) => [`statement ${shown(name)}`, sha256]);
  const document = {
    schema: "lstm-ctc-bundle/audit",
    version: 3,
    kind: "verify",
    subject: `bundle ${shown(outcome.name)}`,
    subjects: report ? list : {},
    looked_at: report ? { ...list, ...Object.fromEntries(statements) } : {},
    rebuilt: [],
    facts: report ? [{ name: "attested by", value: signer }] : [],
    counts: count(STATUSES, (name) => (claim) => claim.status === name),
    kinds: count(KINDS, (name) => (claim) => claim.kind === name && holding(claim)),
    first_refuted: refuted ? refuted.key : null,
    claims: outcome.claims.map((claim) => ({
      key: claim.key,
      claim: claim.text,
      kind: claim.kind,
      status: claim.status,
      findings: claim.findings,
      evidence: claim.evidence,
      open_to: [],
    })),
  };
  return `${pretty(document)}\n`;
}

/** The page to sign: what is shown, without a script, and with a place for a name. */
function auditPage(outcome, shownOutcome, json) {
  const page = document.implementation.createHTMLDocument(say("audit"));
  page.documentElement.lang = tongue;
  const style = document.querySelector("style").cloneNode(true);
  const policy = document.querySelector("meta[http-equiv]").cloneNode(true);
  policy.content = policy.content.replace(/script-src [^;]*; |worker-src [^;]*; /g, "");
  const charset = document.querySelector("meta[charset]").cloneNode(true);
  const width = document.querySelector("meta[name=viewport]").cloneNode(true);
  page.head.prepend(charset, width, policy);
  page.head.append(style);
  const main = page.body.appendChild(page.createElement("main"));
  main.append(part("header", {}, part("h1", {}, say("audit")), part("p", {}, outcome.name)));
  main.append(...shownOutcome.cloneNode(true).children);
  for (const left of main.querySelectorAll("#save, section:has(#every)")) left.remove();
  for (const details of main.querySelectorAll("details")) details.open = true;
  const signed = [
    [say("toSign"), sha256Hex(bytesOf(json))],
    [say("auditor"), ""],
    [say("date"), ""],
    [say("signature"), ""],
  ];
  main.append(part("section", {}, part("h2", {}, say("signature")), table([], signed)));
  return `<!doctype html>\n${page.documentElement.outerHTML}\n`;
}
