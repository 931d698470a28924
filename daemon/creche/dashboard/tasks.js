// What is known of tasks: those in flight, all of them, and the last that have ended.

import {getJson} from "./daemon.js";

export const ENDS = ["succeeded", "failed", "cancelled", "timed_out", "server_failed"];
export const STATUSES = ["accepted", "creating", "waiting", "processing", "paused", "cancelling", "unknown", ...ENDS];

const PAGE = 1000;
const KEPT_ENDED = 2000;

export class Tasks {
  constructor() {
    this.inFlight = new Map();
    this.ended = new Map();
    this.order = {}; // of ids, by view
    this.version = 0; // grows with every change
  }

  // All that is in flight, and what ended last. What the stream tells meanwhile is newer than the lists.
  async load() {
    const told = (this.told = new Set());
    const found = new Map();
    for (let after = ""; after !== null; ) {
      const page = await getJson(`/v1/tasks?status=unfinished&limit=${PAGE}${after && `&after=${after}`}`);
      for (const task of page.tasks) found.set(task.id, task);
      after = page.after;
    }
    const last = await getJson(`/v1/tasks?status=${ENDS.join(",")}&limit=200`);
    if (this.told !== told) return; // begun anew meanwhile
    for (const id of this.inFlight.keys()) if (!found.has(id) && !told.has(id)) this.inFlight.delete(id);
    this.order = {};
    for (const task of found.values()) if (!told.has(task.id)) this.put(task);
    for (const task of last.tasks) this.put(task);
  }

  put(task) {
    this.version += 1;
    this.told?.add(task.id);
    task.from = Date.parse(task.accepted_at);
    if (!ENDS.includes(task.status)) {
      if (this.ended.has(task.id)) return;
      if (!this.inFlight.has(task.id)) this.order.flight = null;
      this.inFlight.set(task.id, task);
      return;
    }
    task.until = Date.parse(task.settled_at);
    this.order = {};
    this.inFlight.delete(task.id);
    this.ended.set(task.id, task);
    if (this.ended.size > KEPT_ENDED * 1.25) {
      for (const old of this.sorted("ended").slice(KEPT_ENDED)) this.ended.delete(old.id);
      this.order = {};
    }
  }

  // Newest first. The order is kept: most changes are of tasks that are there already.
  sorted(view) {
    const [all, key] = view === "ended" ? [this.ended, "until"] : [this.inFlight, "from"];
    this.order[view] ??= [...all.values()].sort((a, b) => b[key] - a[key]).map((task) => task.id);
    return this.order[view].map((id) => all.get(id));
  }

  // Those that a person wants to see.
  wanted({view, query, status, algorithm}) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return this.sorted(view).filter((task) =>
      (!status || task.status === status) && (!algorithm || task.algorithm === algorithm) &&
      words.every((word) => textOf(task).includes(word)));
  }
}

function textOf(task) {
  return (task.text ??= [task.id, task.key, task.user, task.algorithm, task.job?.id, task.message, task.note, task.last_error, task.condition]
    .concat(Object.entries(task.labels ?? {}).map(([name, value]) => `${name}:${value}`))
    .filter(Boolean).join("\n").toLowerCase());
}
