// What a person sees. Whatever a bundle says comes in as text, with everything spelt out that could hide or act.

/** An element; whatever is given as a child is text or another element. */
function part(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.map((child) => (child instanceof Node ? child : shown(child, 10000))));
  return element;
}

function table(heads, lines) {
  const cell = (value) => part("td", {}, ...[value].flat());
  const rows = lines.map((line) =>
    part(
      "tr",
      {},
      ...line.map((value, place) => (place || heads.length ? cell(value) : part("th", { scope: "row" }, value))),
    ),
  );
  const head = heads.length
    ? [part("thead", {}, part("tr", {}, ...heads.map((text) => part("th", { scope: "col" }, text))))]
    : [];
  return part(
    "div",
    { class: "scroll", tabindex: "0", role: "group" },
    part("table", {}, ...head, part("tbody", {}, ...rows)),
  );
}

const section = (title, ...children) => part("section", {}, part("h2", {}, title), ...children);
const code = (text) => part("code", {}, text);

/** A fingerprint in groups that can be read out; copied, it has no spaces. */
function digits(text) {
  const groups = text.match(/.{1,8}/g) || [];
  return part("code", { class: "digits" }, ...groups.map((group) => part("span", {}, group)));
}

const toneOf = (status) => (status === PROVEN || status === ATTESTED ? "good" : status === REFUTED ? "bad" : "open");

function headline(outcome) {
  const tone = outcome.code === 0 ? "good" : outcome.code === 3 ? "bad" : "open";
  const means = outcome.code === 2 ? say("wrongUse") : say(`${tone}Means`);
  const box = part(
    "section",
    { class: `verdict ${tone}` },
    part("p", { class: "headline" }, say(tone)),
    part("p", {}, means),
  );
  if (outcome.code) box.append(part("p", { class: "message" }, outcome.message));
  if (outcome.hint) {
    box.append(part("p", {}, part("strong", {}, `${say("todo")}: `), outcome.hint));
  }
  box.append(part("p", { class: "note" }, `${say("code")} ${outcome.code}.`));
  if (outcome.failures.length) {
    const shownFirst = outcome.failures.slice(0, 100).map((line) => part("li", {}, line));
    if (outcome.failures.length > 100) shownFirst.push(part("li", {}, `and ${outcome.failures.length - 100} more`));
    box.append(part("h3", {}, say("findings")), part("ul", { class: "failures" }, ...shownFirst));
  }
  return box;
}

function claimsPart(outcome) {
  const cards = outcome.claims.map((claim) => {
    const status = part(
      "span",
      { class: `status ${toneOf(claim.status)}` },
      say("outcomes")[claim.status] || claim.status,
    );
    const first = claim.key === "statements" ? [] : claim.evidence; // who said what has a table of its own
    const evidence = first.map((line) => part("p", { class: "note" }, line));
    const count = claim.status === REFUTED ? outcome.failures.length : 0;
    const lines = count ? [`${count} ${say("above")}`] : claim.findings.slice(0, 5);
    const findings = lines.map((line) => part("p", { class: "finding" }, line));
    const text = part("p", { class: "claim" }, claim.text[0].toUpperCase() + claim.text.slice(1) + ".");
    return part("li", { class: toneOf(claim.status) }, status, part("div", {}, text, ...findings, ...evidence));
  });
  return section(say("claims"), part("ul", { class: "claims" }, ...cards));
}

function signerPart(report) {
  if (!report.signer) return section(say("signer"), part("p", { class: "caution" }, say("nobody")));
  const named = (key) => (key === report.accepted ? [part("p", { class: "fine" }, say("namedKey"))] : []);
  const box = section(say("signer"), digits(report.signer), ...named(report.signer));
  if (!report.accepted) box.append(part("p", { class: "caution" }, say("unknownKey")));
  for (const key of report.countersigners) {
    box.append(part("p", { class: "note" }, say("alsoSigned")), digits(key), ...named(key));
  }
  return box;
}

function bundlePart(report) {
  const { about } = report;
  const installer = report.entries.find((entry) => entry.path === "install.py");
  const lines = [
    [say("name"), about.name],
    [say("commit"), code(about.commit)],
    [say("list"), code(report.listSha256)],
    [say("size"), `${report.entries.length}, ${megabytes(report.sizeBytes)} MB`],
  ];
  if (installer) lines.push([say("installer"), code(installer.sha256)]);
  if (about.base) lines.push([say("base"), code(about.base)]);
  const notes = Object.entries(about.contents.licence_notes).map(([name, text]) => `${name}: ${text}`);
  if (notes.length) lines.push([say("notes"), notes.flatMap((note) => [note, part("br")])]);
  return section(say("bundle"), table([], lines));
}

function runsPart(runs) {
  const box = section(say("runs"), part("p", { class: "note" }, runs.length ? say("runsMeans") : say("none")));
  for (const run of runs) {
    box.append(
      part("h3", {}, `${say("run")} ${run.name}`),
      part("p", {}, `${say("verdict")}: ${run.outcome}. ${say("made")}: ${run.data}, ${run.checkpoint}.`),
    );
    if (run.figures.length) box.append(table([say("batch"), say("wer"), say("cer"), say("speed")], run.figures));
  }
  return box;
}

const who = (report, signer) =>
  !signer
    ? say("nobody")
    : signer === report.signer
      ? say("maker")
      : part("code", { class: "who" }, `${signer.slice(0, 16)}…`);

function resultOf({ result }) {
  const tone = { PASSED: "good", FAILED: "bad" }[result] || "open";
  return result ? part("span", { class: `status ${tone}` }, result) : "-";
}

function statementLine(report, statement) {
  const kinds = {
    [PROVENANCE]: "provenance",
    [SUMMARY]: "summary",
    [TEST_RESULT]: statement.isRebuild ? "rebuild" : "test",
  };
  const subjects = [...statement.digests.values()];
  const subject = subjects.length > 1 ? `${subjects[0]} + ${subjects.length - 1}` : subjects[0];
  return [
    code(statement.name),
    say(kinds[statement.kind]),
    resultOf(statement),
    subject,
    who(report, statement.signer),
  ];
}

function statementsPart(report) {
  const heads = [say("statement"), say("kind"), say("result"), say("about_"), say("by")];
  const lines = report.statements.map((statement) => statementLine(report, statement));
  return folded("statements", say("statements"), lines.length, table(heads, lines));
}

function rebuildersPart(report) {
  const keys = (list) => (list.length ? list.flatMap((key) => [code(`${key.slice(0, 16)}…`), part("br")]) : "-");
  const heads = [say("image"), say("confirmed"), say("contradicted"), say("silent")];
  const tone = (list, name) => (list.length ? part("span", { class: `status ${name}` }, ...keys(list)) : "-");
  const lines = report.rebuilt.map((item) => [
    item.image,
    tone(item.confirmed, "good"),
    tone(item.contradicted, "bad"),
    keys(item.silent),
  ]);
  return section(say("rebuilders"), table(heads, lines));
}

const folded = (id, title, count, ...inside) =>
  part("section", {}, part("details", { id }, part("summary", {}, part("h2", {}, `${title} (${count})`)), ...inside));

/** The list of files, which may be long: made when it is looked at, and no part of the page to sign. */
function filesPart(report) {
  const box = folded("every", say("every"), report.entries.length);
  const heads = [say("path"), say("bytes"), say("sha256")];
  const fill = ({ target }) => target.append(table(heads, report.entries.map(fileLine)));
  box.firstChild.addEventListener("toggle", fill, { once: true });
  return box;
}

const fileLine = (entry) => [
  code(entry.path),
  String(entry.size),
  entry.offset < 0 ? say("earlier") : code(entry.sha256),
];

/** Everything that is known of a bundle that was verified, or why nothing is. */
async function outcomeParts(outcome) {
  const parts = [headline(outcome), claimsPart(outcome)];
  const { report } = outcome;
  if (!report) return parts;
  parts.push(signerPart(report), bundlePart(report));
  if (!report.failures.length) {
    parts.push(runsPart(await runsOf(report)));
    if (report.asksForRebuilders) parts.push(rebuildersPart(report));
    if (report.statements.length) parts.push(statementsPart(report));
    const heads = [say("architecture"), say("image"), say("identity")];
    const lines = report.images.map(([architecture, name, image]) => [architecture, name, code(image.image_id)]);
    if (lines.length) parts.push(folded("images", say("images"), lines.length, table(heads, lines)));
  }
  parts.push(filesPart(report));
  return parts;
}

function savePart(outcome, shownOutcome) {
  const save = (name, type, text) => {
    const url = URL.createObjectURL(new Blob([text], { type }));
    part("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  };
  const json = auditJson(outcome);
  const page = part("button", { type: "button", class: "main" }, say("savePage"));
  const data = part("button", { type: "button" }, say("saveJson"));
  page.addEventListener("click", () => save("audit.html", "text/html", auditPage(outcome, shownOutcome, json)));
  data.addEventListener("click", () => save("audit.json", "application/json", json));
  return part(
    "section",
    { id: "save" },
    part("p", { class: "do" }, page, data),
    part("p", { class: "note" }, say("saveHelp")),
  );
}
