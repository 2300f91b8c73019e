"use strict";
// Everything that a run said reaches the page as text: textContent and canvas alone, never as markup.
const run = JSON.parse(document.getElementById("run").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const PAGE = 50, FRAME_S = 0.04, COLUMN_S = 0.02, BINS = 80, LEAST = 7, LEFT = 46;
const EQUAL = 0, SUB = 1, GONE = 2, EXTRA = 3;

const phoneOf = new Map(Array.from(run.letters, (letter, index) => [letter, index]));
const spelt = (text) => Array.from(text, (letter) => phoneOf.get(letter));

// A shortest alignment as [kind, said, heard]: the choice that the record's counts are made with, which walks back from
// the end and prefers what was left out, then what was put in.
function align(said, heard) {
  let start = 0, end = 0;
  while (start < Math.min(said.length, heard.length) && said[start] === heard[start]) start++;
  while (end < Math.min(said.length, heard.length) - start && said[said.length - 1 - end] === heard[heard.length - 1 - end]) end++;
  const a = said.slice(start, said.length - end), b = heard.slice(start, heard.length - end);
  const width = a.length + 1, table = new Uint32Array(width * (b.length + 1));
  for (let x = 0; x < width; x++) table[x] = x;
  for (let y = 1; y <= b.length; y++) {
    table[y * width] = y;
    for (let x = 1; x < width; x++) {
      table[y * width + x] = Math.min(table[(y - 1) * width + x] + 1, table[y * width + x - 1] + 1,
        table[(y - 1) * width + x - 1] + (a[x - 1] !== b[y - 1]));
    }
  }
  const middle = [];
  let x = a.length, y = b.length;
  while (x && y) {
    if (table[y * width + x] === table[y * width + x - 1] + 1) { middle.push([GONE, a[--x], -1]); continue; }
    y--;
    if (y && table[y * width + x] === table[y * width + x - 1] - 1) { middle.push([EXTRA, -1, b[y]]); continue; }
    x--;
    middle.push([a[x] === b[y] ? EQUAL : SUB, a[x], b[y]]);
  }
  while (x) middle.push([GONE, a[--x], -1]);
  while (y) middle.push([EXTRA, -1, b[--y]]);
  const same = (phone) => [EQUAL, phone, phone];
  return [...said.slice(0, start).map(same), ...middle.reverse(), ...said.slice(said.length - end).map(same)];
}

// Alignments are made when they are needed: ten thousand of them would keep the first screen waiting.
class Utterance {
  constructor([name, speaker, dialect, said, heard, words, edits, other, otherEdits], index) {
    Object.assign(this, { index, name, speaker, dialect, said, heard, words, edits, other, length: said.length });
    this.rate = this.length ? edits / this.length : edits ? Infinity : 0;
    if (other !== undefined) this.gain = otherEdits - edits;
  }
  get steps() { return this.made ??= align(spelt(this.said), spelt(this.heard)); }
  get otherSteps() { return this.other === undefined ? undefined : align(spelt(this.said), spelt(this.other)); }
  get wrong() { return this.phones ??= new Set(this.steps.filter((step) => step[0] !== EQUAL).flatMap((step) => [step[1], step[2]])); }
}
const all = run.utterances.map((row, index) => new Utterance(row, index));
const compared = run.names.length > 1;

function choices(select, options) {
  for (const [value, text] of options) {
    const option = make("option", "", text);
    option.value = value;
    select.append(option);
  }
}
choices($("speaker"), [["", "all"], ...run.speakers.map((name, index) => [index, name])]);
choices($("dialect"), [["", "all"], ...run.dialects.map((name, index) => [index, name || "none"])]);
choices($("phone"), [["", "any"], ...run.phones.map((name, index) => [index, name])]);
choices($("which"), [["", "all"], ["wrong", "with errors"], ["right", "without errors"],
  ...(compared ? [["changed", "changed"], ["better", "better in A"], ["worse", "worse in A"]] : [])]);
choices($("sort"), [["rate", "error rate"], ["edits", "errors"], ["order", "order of the run"], ["name", "id"],
  ["length", "length"], ...(compared ? [["gain", "change"]] : [])]);
if (compared && all.some((one) => one.other !== undefined && one.other !== one.heard)) {
  $("which").value = "changed";
  $("sort").value = "gain";
}

const sorts = {
  rate: (a, b) => b.rate - a.rate || b.edits - a.edits,
  edits: (a, b) => b.edits - a.edits || b.rate - a.rate,
  order: () => 0,
  name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  length: (a, b) => b.length - a.length,
  gain: (a, b) => (a.gain ?? 0) - (b.gain ?? 0),
};
const kinds = {
  wrong: (one) => one.edits > 0,
  right: (one) => one.edits === 0,
  changed: (one) => one.other !== undefined && one.other !== one.heard,
  better: (one) => one.gain > 0,
  worse: (one) => one.gain < 0,
};

function sought(text) {
  const words = text.trim().toLowerCase();
  if (!words) return () => true;
  const phones = words.split(/\s+/).map((word) => run.phones.indexOf(word));
  const sequence = phones.includes(-1) ? null : phones.map((phone) => Array.from(run.letters)[phone]).join("");
  return (one) => one.name.toLowerCase().includes(words) || one.words.toLowerCase().includes(words) ||
    (sequence !== null && (one.said.includes(sequence) || one.heard.includes(sequence)));
}

let shown = [], drawn = 0;
function find() {
  const [speaker, dialect, phone, which] = ["speaker", "dialect", "phone", "which"].map((id) => $(id).value);
  const matches = sought($("search").value);
  shown = all.filter((one) => (speaker === "" || one.speaker === +speaker) && (dialect === "" || one.dialect === +dialect) &&
    (phone === "" || one.wrong.has(+phone)) && (which === "" || kinds[which](one)) && matches(one));
  shown.sort((a, b) => sorts[$("sort").value](a, b) || a.index - b.index);
  const edits = shown.reduce((sum, one) => sum + one.edits, 0), length = shown.reduce((sum, one) => sum + one.length, 0);
  $("count").textContent = `${shown.length} of ${all.length} utterances` +
    (length ? `, ${edits} errors in ${length} phones: ${(100 * edits / length).toFixed(2)} %` : "");
  $("list").replaceChildren();
  drawn = 0;
  more();
}

function more() {
  const some = shown.slice(drawn, drawn + PAGE);
  $("list").append(...some.map(item));
  drawn += some.length;
  $("more").hidden = drawn >= shown.length;
  $("more").textContent = `Show ${Math.min(PAGE, shown.length - drawn)} more of ${shown.length - drawn}`;
}

function aligned(steps, label) {
  const line = make("p", "align");
  if (label) line.append(make("b", "", label));
  for (const [kind, said, heard] of steps) {
    if (kind === EQUAL) line.append(run.phones[said]);
    else if (kind === GONE) line.append(make("del", "gone", run.phones[said]));
    else if (kind === EXTRA) line.append(make("ins", "extra", run.phones[heard]));
    else {
      const both = make("span", "sub");
      both.append(make("del", "", run.phones[said]), make("ins", "", run.phones[heard]));
      line.append(both);
    }
    line.append(" ");
  }
  return line;
}

function item(one) {
  const entry = make("li"), head = make("div", "head");
  const percent = Number.isFinite(one.rate) ? `${(100 * one.rate).toFixed(1)} %` : "no phones";
  const rate = make("span", "rate", `${percent}, ${one.edits} of ${one.length}` + (one.gain ? ` (${one.gain > 0 ? "−" : "+"}${Math.abs(one.gain)} beside B)` : ""));
  const part = run.parts[Math.floor(one.index / run.perPart)];
  let name;
  if (part) {
    name = make("a", "name", one.name);
    name.href = `${part}#${one.index % run.perPart}`;
  } else if ($(`d${one.index}`)) {
    name = make("button", "name", one.name);
    name.type = "button";
    name.setAttribute("aria-expanded", "false");
    name.addEventListener("click", () => toggle(one, entry, name));
  } else name = make("span", "", one.name);
  head.append(name, make("span", "tags", [run.speakers[one.speaker], run.dialects[one.dialect]].filter(Boolean).join(", ")), rate);
  entry.append(head);
  if (one.words) entry.append(make("p", "words", one.words));
  entry.append(aligned(one.steps, compared ? "A" : ""));
  if (one.other !== undefined) entry.append(one.other === one.heard ? make("p", "tags", "B: the same") : aligned(one.otherSteps, "B"));
  return entry;
}

async function unpacked(text) {
  if (text === "-") return null;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
}

async function toggle(one, entry, button) {
  const open = entry.querySelector(".detail");
  button.setAttribute("aria-expanded", String(!open));
  if (open) { open.remove(); return; }
  const panel = make("div", "detail"), time = make("div", "time");
  entry.append(panel);
  const [frames, ...packed] = $(`d${one.index}`).textContent.split(" ");
  const [posteriors, spectrogram, sound] = await Promise.all(packed.map(unpacked));
  panel.append(time);
  if (spectrogram) time.append(drawSpectrogram(spectrogram, +frames, posteriors, one, time.clientWidth));
  if (posteriors) time.append(drawPosteriors(posteriors, +frames, panel, time.clientWidth));
  if (sound) play(sound, +frames, panel, time);
  if (!spectrogram && !posteriors && !sound) panel.append(make("p", "tags", "The network's outputs are not beside this page's run."));
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const rgb = (name) => [1, 3, 5].map((at) => parseInt(colour(name).slice(at, at + 2), 16));
// A canvas of this size in the page's pixels, sharp on fine screens.
function canvasOf(width, height, label, fine = devicePixelRatio || 1) {
  const canvas = make("canvas"), context = canvas.getContext("2d");
  canvas.width = Math.round(width * fine);
  canvas.height = Math.round(height * fine);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  context.scale(fine, fine);
  return [canvas, context];
}

// Values from 0 to 1 as one picture, `columns` wide and `rows` high, from the page's background to its strongest colour.
function picture(columns, rows, value) {
  const [canvas, context] = canvasOf(columns, rows, "", 1), image = context.createImageData(columns, rows);
  const low = rgb("--low"), high = rgb("--high");
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const share = value(x, y);
      for (let part = 0; part < 3; part++) image.data[at++] = low[part] + share * (high[part] - low[part]);
      image.data[at++] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function best(posteriors, frames) {
  const classes = run.classes.length;
  return Array.from({ length: frames }, (_, frame) => {
    let top = 0;
    for (let index = 1; index < classes; index++) if (posteriors[frame * classes + index] > posteriors[frame * classes + top]) top = index;
    return top;
  });
}

function drawSpectrogram(levels, frames, posteriors, one, width) {
  const columns = levels.length / (BINS / 2), height = 190, top = 18;
  const [canvas, context] = canvasOf(width, height + top, `Spectrogram of ${one.name}, ${(columns * COLUMN_S).toFixed(2)} seconds`);
  const level = (x, y) => { const bin = BINS - 1 - y, both = levels[x * BINS / 2 + (bin >> 1)]; return (bin & 1 ? both & 15 : both >> 4) / 15; };
  context.imageSmoothingEnabled = false;
  const wide = (width - LEFT) * Math.min(1, columns * COLUMN_S / (frames * FRAME_S));
  context.drawImage(picture(columns, BINS, level), LEFT, top, wide, height);
  context.fillStyle = colour("--quiet");
  context.font = "12px system-ui, sans-serif";
  context.fillText("mel", 4, top + 14);
  if (!posteriors) return canvas;
  context.fillStyle = colour("--path");
  const step = (width - LEFT) / frames;
  let last = 0, free = 0;
  best(posteriors, frames).forEach((index, frame) => {
    const x = LEFT + frame * step;
    if (index !== 0 && index !== last && x >= free) {
      context.fillText(run.classes[index], x, 13);
      free = x + context.measureText(run.classes[index]).width + 3;
    }
    last = index;
  });
  return canvas;
}

function drawPosteriors(posteriors, frames, panel, width) {
  const classes = run.classes.length, path = best(posteriors, frames), first = new Map();
  const probability = (frame, index) => { const value = posteriors[frame * classes + index]; return value ? Math.exp((value / 255 - 1) * LEAST) : 0; };
  for (let frame = 0; frame < frames; frame++) {
    for (let index = 1; index < classes; index++) if (!first.has(index) && probability(frame, index) > 0.1) first.set(index, frame);
  }
  const rows = [...first.keys()].sort((a, b) => first.get(a) - first.get(b));
  rows.push(0);
  const high = 15, step = (width - LEFT) / frames, at = new Map(rows.map((index, row) => [index, row]));
  const heard = path.filter((index, frame) => index && index !== path[frame - 1]).map((index) => run.classes[index]).join(" ");
  const [canvas, context] = canvasOf(width, rows.length * high + 20, `Probability of each phone over time; ${run.greedy ? "decoded path" : "likeliest classes"}: ${heard}`);
  context.imageSmoothingEnabled = false;
  context.drawImage(picture(frames, rows.length, (x, y) => probability(x, rows[y])), LEFT, 0, width - LEFT, rows.length * high);
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "right";
  context.fillStyle = colour("--quiet");
  rows.forEach((index, row) => context.fillText(run.classes[index], LEFT - 6, row * high + 12));
  context.textAlign = "center";
  const tick = width > 600 ? 0.5 : 1;
  for (let second = 0; second <= frames * FRAME_S; second += tick) context.fillText(`${second.toFixed(1)} s`, Math.max(LEFT + 12, LEFT + second / FRAME_S * step), rows.length * high + 15);
  const middle = (index) => (at.get(index) ?? rows.length - 1) * high + high / 2;
  context.strokeStyle = colour("--path");
  for (const [upright, width] of [[true, 0.5], [false, 3]]) {
    context.lineWidth = width;
    context.beginPath();
    path.forEach((index, frame) => {
      const x = LEFT + (frame + !upright) * step;
      context.moveTo(LEFT + frame * step, middle(upright && frame ? path[frame - 1] : index));
      context.lineTo(x, middle(index));
    });
    context.stroke();
  }
  const told = make("p", "probe", `The line is ${run.greedy ? "the decoded path" : "the likeliest class of each frame; the decoder is a beam search"}. Point at a frame for its probabilities.`);
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect(), frame = Math.floor(((event.clientX - box.left) / box.width * width - LEFT) / step);
    if (frame < 0 || frame >= frames) return;
    const top = Array.from({ length: classes }, (_, index) => index).sort((a, b) => probability(frame, b) - probability(frame, a)).slice(0, 4);
    told.textContent = `${(frame * FRAME_S).toFixed(2)} s: ` + top.map((index) => `${run.classes[index]} ${probability(frame, index).toFixed(3)}`).join(", ");
  });
  panel.append(told);
  return canvas;
}

// Mu-law to a WAV of 16 bits, which every browser plays.
function wave(law) {
  const view = new DataView(new ArrayBuffer(44 + 2 * law.length)), rate = 16000;
  const put = (at, text) => Array.from(text).forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  put(0, "RIFF"); view.setUint32(4, 36 + 2 * law.length, true); put(8, "WAVEfmt "); view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); view.setUint16(22, 1, true); view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); put(36, "data"); view.setUint32(40, 2 * law.length, true);
  law.forEach((byte, index) => {
    const value = ~byte & 255, magnitude = (((value & 15) << 3) + 132 << (value >> 4 & 7)) - 132;
    view.setInt16(44 + 2 * index, value & 128 ? -magnitude : magnitude, true);
  });
  return new Blob([view], { type: "audio/wav" });
}

function play(law, frames, panel, time) {
  const audio = make("audio"), now = make("div", "now");
  audio.controls = true;
  audio.setAttribute("aria-label", "Sound of the utterance");
  audio.src = URL.createObjectURL(wave(law));
  now.hidden = true;
  time.append(now);
  const move = () => {
    const share = audio.currentTime / (frames * FRAME_S);
    now.hidden = !audio.currentTime || share > 1;
    now.style.left = `${LEFT + share * (time.clientWidth - LEFT)}px`;
    if (!audio.paused) requestAnimationFrame(move);
  };
  audio.addEventListener("play", move);
  audio.addEventListener("seeked", move);
  panel.prepend(audio);
}

function bars(title, id, names, keyed) {
  const sums = names.map(() => [0, 0]);
  for (const one of all) keyed(one, (index, wrong, length) => { sums[index][0] += wrong; sums[index][1] += length; });
  const rows = sums.map(([wrong, length], index) => ({ index, wrong, length, rate: length ? wrong / length : 0 }))
    .filter((row) => row.length).sort((a, b) => b.rate - a.rate || a.index - b.index).slice(0, 12);
  const most = Math.max(...rows.map((row) => row.rate), 1e-9), list = make("ul", "bars");
  for (const row of rows) {
    const button = make("button"), bar = make("span"), mark = make("i");
    button.type = "button";
    button.title = `${names[row.index]}: ${row.wrong} errors in ${row.length} phones`;
    mark.style.width = `${100 * row.rate / most}%`;
    bar.append(mark);
    button.append(make("span", "", names[row.index] || "none"), bar, make("span", "", `${(100 * row.rate).toFixed(1)} %`));
    button.addEventListener("click", () => { $(id).value = $(id).value === String(row.index) ? "" : row.index; find(); });
    const entry = make("li");
    entry.append(button);
    list.append(entry);
  }
  if (rows.length) $("charts").append(make("h3", "", title), list);
}

for (const id of ["speaker", "dialect", "phone", "which", "sort"]) $(id).addEventListener("change", find);
$("search").addEventListener("input", find);
$("more").addEventListener("click", more);
$("where").open = matchMedia("(min-width: 60rem)").matches;
find();
setTimeout(() => {
  bars("by dialect", "dialect", run.dialects, (one, add) => add(one.dialect, one.edits, one.length));
  bars("by speaker", "speaker", run.speakers, (one, add) => add(one.speaker, one.edits, one.length));
  bars("by phone that was said", "phone", run.phones, (one, add) => {
    for (const [kind, said] of one.steps) if (kind !== EXTRA) add(said, kind === EQUAL ? 0 : 1, 1);
  });
  const wanted = location.hash.slice(1);
  if (/^\d+$/.test(wanted) && all[+wanted]) {
    $("sort").value = "order";
    $("which").value = "";
    find();
    while (drawn <= +wanted && !$("more").hidden) more();
    const entry = $("list").children[+wanted], button = entry.querySelector("button.name");
    if (button) button.click();
    entry.scrollIntoView();
  }
});
