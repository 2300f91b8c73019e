// Files checked side by side in workers, which are made from this very script.

const TASK_BYTES = 8 << 20;
const MOST_WORKERS = 8;

/** Neighbours together, up to some bytes: a reader's window then serves them all. */
function tasksOf(entries) {
  const tasks = [];
  for (const entry of entries) {
    const last = tasks.at(-1);
    if (last && last.bytes + entry.size <= TASK_BYTES) {
      last.entries.push(entry);
      last.bytes += entry.size;
    } else {
      tasks.push({ entries: [entry], bytes: entry.size });
    }
  }
  return tasks.sort((one, other) => other.bytes - one.bytes); // the largest first: none is left alone at the end
}

async function checkTask(archive, task) {
  const found = [];
  for (const entry of task.entries) found.push([entry.path, await checkEntry(archive, entry)]);
  return found;
}

function startWorker(files) {
  const url = URL.createObjectURL(new Blob([SCRIPT_TEXT], { type: "text/javascript" }));
  const worker = new Worker(url);
  URL.revokeObjectURL(url);
  worker.postMessage({ files });
  return worker;
}

/** Hand tasks to one worker until none is left. One that cannot run gives its task back. */
function drain(worker, tasks, found, told) {
  return new Promise((resolve, reject) => {
    let task;
    const next = () => {
      task = tasks.shift();
      if (task) worker.postMessage({ task });
      else resolve();
    };
    worker.onerror = () => {
      tasks.unshift(task);
      resolve();
    };
    worker.onmessage = ({ data }) => {
      if (data.bytes) told(data.bytes);
      if (data.refused) reject(new Refused(data.refused.code, data.refused.message, data.refused.hint));
      if (data.found) {
        data.found.forEach(([path, failures]) => found.set(path, failures));
        next();
      }
    };
    next();
  });
}

/** The workers for some tasks; none where one is enough, or where this browser starts none for a page like this. */
function startWorkers(files, tasks) {
  const count = Math.min(tasks.length, MOST_WORKERS, navigator.hardwareConcurrency || 2);
  const workers = [];
  try {
    while (tasks.length > 1 && workers.length < count) workers.push(startWorker(files));
  } catch {
    // a policy or a setting of the browser: the page hashes by itself
  }
  return workers;
}

/** Checks entries, until `stopped` is aborted. Little ones are checked here: starting a worker takes longer. */
function hasherFor(told, stopped) {
  return async (archive, entries) => {
    const tasks = tasksOf(entries);
    const found = new Map();
    const workers = startWorkers(archive.files, tasks);
    if (stopped.aborted) throw stoppedByUser();
    const ended = new Promise((_, reject) => stopped.addEventListener("abort", () => reject(stoppedByUser())));
    try {
      await Promise.race([Promise.all(workers.map((worker) => drain(worker, tasks, found, told))), ended]);
    } finally {
      workers.forEach((worker) => worker.terminate());
    }
    archive.told = told;
    for (const task of tasks) {
      if (stopped.aborted) throw stoppedByUser();
      (await checkTask(archive, task)).forEach(([path, failures]) => found.set(path, failures));
    }
    return entries.flatMap((entry) => found.get(entry.path));
  };
}

const stoppedByUser = () => new Refused(4, "stopped before the end", "nothing is known of the bundle: begin again");

/** What a worker does with its messages. */
function serve() {
  let archive;
  let unsaid = 0;
  const told = (bytes) => {
    unsaid += bytes;
    if (unsaid < 4 << 20) return;
    postMessage({ bytes: unsaid });
    unsaid = 0;
  };
  onmessage = async ({ data }) => {
    if (data.files) archive = new Archive(data.files, told);
    if (!data.task) return;
    try {
      postMessage({ found: await checkTask(archive, data.task), bytes: unsaid });
      unsaid = 0;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      postMessage({ refused: { code: error.code, message: error.message, hint: error.hint } });
    }
  };
}
