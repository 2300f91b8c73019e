// The form: files in, one verification at a time, its outcome shown.

/** What was dropped: [files, whether a folder was among it]. A page that is opened from disk cannot look into folders. */
function droppedIn(transfer) {
  const isFolder = (item) => item.webkitGetAsEntry && (item.webkitGetAsEntry() || {}).isDirectory;
  const items = Array.from(transfer.items).filter((item) => item.kind === "file");
  const files = items.filter((item) => !isFolder(item)).map((item) => item.getAsFile());
  return [files, files.length < items.length];
}

function begin() {
  const at = (id) => document.getElementById(id);
  const [form, input, key, drop, shownOutcome] = ["form", "files", "key", "drop", "outcome"].map(at);
  let files = [];
  let last = null;
  let running = null;

  const choose = (list, withFolder = false) => {
    files = Array.from(list);
    const bundle = files.filter((file) => !liesBeside(file));
    const bytes = bundle.reduce((sum, file) => sum + file.size, 0);
    const names = bundle.slice(0, 3).map((file) => shown(file.name, 100)).join(", "); // prettier-ignore
    const beside = files.length > bundle.length ? ` + ${files.length - bundle.length} ${say("beside")}` : "";
    const told = `${names}${bundle.length > 3 ? ", …" : ""}: ${megabytes(bytes)} MB${beside}`;
    at("chosen").textContent = (files.length ? told : "") + (withFolder ? ` ${say("folder")}` : "");
    at("start").disabled = !files.length;
  };

  const asked = () => ({
    keys: key.value,
    rebuilders: at("rebuilders").value,
    threshold: Number(at("threshold").value),
  });

  const speak = () => {
    document.documentElement.lang = tongue === "zh" ? "zh-CN" : "en";
    document.title = say("title");
    for (const element of document.querySelectorAll("[data-say]")) element.textContent = say(element.dataset.say);
    for (const button of document.querySelectorAll("[data-tongue]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tongue === tongue));
    }
  };

  const show = async (outcome) => {
    last = outcome;
    shownOutcome.replaceChildren(...(await outcomeParts(outcome)));
    shownOutcome.append(savePart(outcome, shownOutcome));
    at("status").textContent = `${say(outcome.code === 0 ? "good" : outcome.code === 3 ? "bad" : "open")}.`;
  };

  const run = async () => {
    running = new AbortController();
    let [total, done, began] = [0, 0, performance.now()];
    const tell = () => {
      at("meter").value = total ? done / total : 0;
      const speed = done / 1e6 / Math.max(0.001, (performance.now() - began) / 1000);
      at("done").textContent = `${say("working")}: ${Math.round(done / 1e6)} / ${Math.round(total / 1e6)} MB, ${Math.round(speed)} MB/s`;
    };
    const watch = {
      stopped: running.signal,
      known: (archive) => (total = archive.totalBytes),
      told: (bytes) => (done += bytes),
    };
    const clock = setInterval(tell, 200);
    tell();
    form.classList.add("busy");
    for (const id of ["progress", "stop"]) at(id).hidden = false;
    at("start").disabled = true;
    shownOutcome.replaceChildren();
    try {
      await show(await verifyBundle(files, asked(), watch));
    } catch (error) {
      shownOutcome.replaceChildren(
        part("section", { class: "verdict bad" }, part("p", { class: "headline" }, say("defect")), part("p", {}, String(error))),
      );
    } finally {
      clearInterval(clock);
      for (const id of ["progress", "stop"]) at(id).hidden = true;
      at("start").disabled = false;
      form.classList.remove("busy");
      running = null;
    }
    shownOutcome.focus({ preventScroll: true });
    shownOutcome.scrollIntoView({ block: "start" });
  };

  input.addEventListener("click", () => (input.value = "")); // a file that was replaced under its name can be chosen again
  input.addEventListener("change", () => choose(input.files));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running && files.length) run();
  });
  at("stop").addEventListener("click", () => running && running.abort());
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault(); // a file that misses the field must not replace the page
      drop.classList.toggle("over", name === "dragenter" || name === "dragover");
      if (name === "drop" && !running) choose(...droppedIn(event.dataTransfer));
    });
  }
  for (const button of document.querySelectorAll("[data-tongue]")) {
    button.addEventListener("click", async () => {
      tongue = button.dataset.tongue;
      speak();
      if (last && !running) await show(last);
    });
  }
  speak();
  if (input.files.length) choose(input.files); // kept by the browser over a reload
}

const SCRIPT_TEXT = typeof document === "undefined" ? "" : document.currentScript.textContent;
if (typeof document === "undefined") {
  serve();
} else {
  // For people who would rather ask in the browser's console; the tests do.
  globalThis.verifier = Object.freeze({
    verifyBundle, auditJson, Sha256, Sha512, sha256Hex, hex, ed25519HoldsHere, ed25519HoldsByBrowser, tarHeader,
    oddHeader, parsed, canonical, quoted, shown,
  }); // prettier-ignore
  begin();
}
