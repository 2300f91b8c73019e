// The form: files in, one verification at a time, its outcome shown.

/** What was dropped: [files, whether a folder was among it]. A page that is opened from disk cannot look into folders. */
function droppedIn(transfer) {
  const isFolder = (item) => item.webkitGetAsEntry && (item.webkitGetAsEntry() || {}).isDirectory;
  const items = Array.from(transfer.items).filter((item) => item.kind === "file");
  const files = items.filter((item) => !isFolder(item)).map((item) => item.getAsFile());
  return [files, files.length < items.length];
}

const at = (id) => document.getElementById(id);
const form = { files: [], last: null, running: null };

function choose(list, withFolder = false) {
  form.files = Array.from(list);
  const bundle = form.files.filter((file) => !liesBeside(file));
  const bytes = bundle.reduce((sum, file) => sum + file.size, 0);
  const names = bundle
    .slice(0, 3)
    .map((file) => shown(file.name, 100))
    .join(", ");
  const count = form.files.length - bundle.length;
  const beside = count ? ` + ${count} ${say("beside")}` : "";
  const told = `${names}${bundle.length > 3 ? ", …" : ""}: ${megabytes(bytes)} MB${beside}`;
  at("chosen").textContent = (form.files.length ? told : "") + (withFolder ? ` ${say("folder")}` : "");
  at("start").disabled = !form.files.length;
}

function speak() {
  document.documentElement.lang = tongue === "zh" ? "zh-CN" : "en";
  document.title = say("title");
  for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
  for (const button of document.querySelectorAll("[data-tongue]")) {
    button.setAttribute("aria-pressed", String(button.dataset.tongue === tongue));
  }
}

async function show(outcome) {
  form.last = outcome;
  at("outcome").replaceChildren(...(await outcomeParts(outcome)));
  at("outcome").append(savePart(outcome, at("outcome")));
  at("status").textContent = `${say(outcome.code === 0 ? "good" : outcome.code === 3 ? "bad" : "open")}.`;
}

function showDefect(error) {
  const words = [part("p", { class: "headline" }, say("defect")), part("p", {}, String(error))];
  at("outcome").replaceChildren(part("section", { class: "verdict bad" }, ...words));
}

/** Show how far a verification is, until the function that is returned is called. */
function showProgress(progress) {
  const began = performance.now();
  const tell = () => {
    const { done, total } = progress;
    at("meter").value = total ? done / total : 0;
    const speed = done / 1e6 / Math.max(0.001, (performance.now() - began) / 1000);
    const share = `${Math.round(done / 1e6)} / ${Math.round(total / 1e6)} MB`;
    at("done").textContent = `${say("working")}: ${share}, ${Math.round(speed)} MB/s`;
  };
  const clock = setInterval(tell, 200);
  const busy = (is) => {
    at("form").classList.toggle("busy", is);
    for (const id of ["progress", "stop"]) at(id).hidden = !is;
    at("start").disabled = is;
  };
  tell();
  busy(true);
  return () => {
    clearInterval(clock);
    busy(false);
  };
}

async function run() {
  form.running = new AbortController();
  const progress = { done: 0, total: 0 };
  const ended = showProgress(progress);
  const asked = {
    keys: at("key").value,
    rebuilders: at("rebuilders").value,
    threshold: Number(at("threshold").value),
  };
  const watch = {
    stopped: form.running.signal,
    known: (archive) => (progress.total = archive.totalBytes),
    told: (bytes) => (progress.done += bytes),
  };
  at("outcome").replaceChildren();
  try {
    await show(await verifyBundle(form.files, asked, watch));
  } catch (error) {
    showDefect(error);
  } finally {
    ended();
    form.running = null;
  }
  at("outcome").focus({ preventScroll: true });
  at("outcome").scrollIntoView({ block: "start" });
}

function begin() {
  at("files").addEventListener("click", () => (at("files").value = "")); // what was replaced can be chosen again
  at("files").addEventListener("change", () => choose(at("files").files));
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!form.running && form.files.length) run();
  });
  at("stop").addEventListener("click", () => form.running && form.running.abort());
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // a file that misses the field must not replace the page
      at("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop" && !form.running) choose(...droppedIn(event.dataTransfer));
    });
  }
  for (const button of document.querySelectorAll("[data-tongue]")) {
    button.addEventListener("click", async () => {
      tongue = button.dataset.tongue;
      speak();
      choose(form.files);
      if (form.last && !form.running) await show(form.last);
    });
  }
  speak();
  if (at("files").files.length) choose(at("files").files); // kept by the browser over a reload
}

const SCRIPT_TEXT = typeof document === "undefined" ? "" : document.currentScript.textContent;
if (typeof document === "undefined") {
  serve();
} else {
  // For people who would rather ask in the browser's console; the tests do.
  globalThis.verifier = Object.freeze({
    verifyBundle,
    auditJson,
    Sha256,
    Sha512,
    sha256Hex,
    hex,
    ed25519HoldsHere,
    ed25519HoldsByBrowser,
    tarHeader,
    oddHeader,
    parsed,
    canonical,
    quoted,
    shown,
  });
  begin();
}
