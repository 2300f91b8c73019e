// What the runs that a verified bundle carries claim.

/** A JSON document of a bundle, or null where it holds none of that name, or something else. */
async function documentOf(report, path) {
  const bytes = await report.archive.content(path);
  try {
    return bytes && JSON.parse(textOf(bytes));
  } catch {
    return null;
  }
}

const rows = (value) => (Array.isArray(value) ? value : isObject(value) ? Object.entries(value) : []);

/** The runs in a bundle: [{name, outcome, reasons, figures: [[batch, text, text], ...]}], as far as they can be read. */
async function runsOf(report) {
  const runs = [];
  for (const { path } of report.entries) {
    const found = /^tree\/artifacts\/received\/([^/]+)\/record\.json$/.exec(path);
    const record = found && (await documentOf(report, path));
    if (!found || !isObject(record)) continue;
    const verdict = isObject(record.verdict) ? record.verdict : {};
    const figures = rows(record.results).filter(isObject).map(figuresOf);
    const kind = (item) => (isObject(item) ? String(item.kind) : "?");
    runs.push({
      name: found[1],
      outcome: String(verdict.outcome || "?"),
      reasons: rows(verdict.reasons).map(String),
      data: kind(record.data),
      checkpoint: kind(record.checkpoint),
      figures,
    });
  }
  return runs;
}

function figuresOf(result) {
  const { batch_size: size, throughput_utterances_per_s: speed } = result;
  const complete = isObject(result.complete) ? result.complete : {};
  const number = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "?");
  const rate = (name) => number(isObject(complete[name]) ? complete[name].value : complete[name], 2);
  return [String(size), rate("wer_percent"), rate("cer_percent"), number(speed, 2)];
}
