// One task: what is known of it, its story, its result, and what a person can do about it.

import {ask, getJson, post} from "./daemon.js";
import {age, clock, element, moment} from "./format.js";
import {confirm} from "./confirm.js";
import {badge} from "./table.js";
import {ENDS} from "./tasks.js";

const KINDS = {
  img: /\.(png|jpe?g|webp|gif|avif|svg)$/i,
  video: /\.(mp4|webm|mov|m4v)$/i,
  audio: /\.(mp3|wav|ogg|flac|m4a|aac)$/i,
};
const NAMES = {img: /image|picture|photo|thumbnail/i, video: /video/i, audio: /audio|speech|music/i};
const MOST_MEDIA = 24;

export class Detail {
  constructor(node, {closed}) {
    this.node = node;
    this.closed = closed;
    this.id = "";
    node.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  async open(id, from) {
    this.from = from ?? this.from;
    this.id = id;
    this.node.hidden = false;
    this.node.replaceChildren(this.head(id), element("p", {}, "…"));
    this.node.querySelector("h2").focus();
    await this.load();
  }

  close() {
    this.id = "";
    this.node.hidden = true;
    this.node.replaceChildren();
    if (this.from?.isConnected) this.from.focus();
    this.closed();
  }

  // Something was heard of a task: if it is this one, look again.
  noticed(task) {
    if (task.id === this.id) this.load();
  }

  async load() {
    if (this.loading) {
      this.again = true;
      return;
    }
    this.loading = true;
    const id = this.id;
    try {
      const task = await getJson(`/v1/tasks/${encodeURIComponent(id)}?input=1&story=1`);
      if (id === this.id) this.show(task);
    } catch (error) {
      if (id === this.id) this.node.replaceChildren(this.head(id), element("p", {class: "alarm"}, error.message));
    }
    this.loading = false;
    if (this.again || id !== this.id) {
      this.again = false;
      if (this.id) setTimeout(() => this.load(), 500);
    }
  }

  head(id) {
    return element("div", {class: "head"}, element("h2", {tabindex: -1}, id),
      element("button", {type: "button", "aria-label": "Close", onclick: () => this.close()}, "×"));
  }

  show(task) {
    const focused = this.node.contains(document.activeElement) ? document.activeElement.dataset.keep ?? "h2" : null;
    const shown = new Set([...this.node.querySelectorAll("[data-media]")].map((media) => media.dataset.media));
    const open = new Set([...this.node.querySelectorAll("details[open]")].map((part) => part.dataset.keep));
    this.node.replaceChildren(
      this.head(task.id),
      element("p", {}, badge(task.status), task.partial ? " partial" : null),
      ...this.words(task),
      this.facts(task),
      element("h3", {}, "Story"),
      story(task),
      ...answers(task),
      ...this.result(task, shown),
      ...(task.input === undefined ? [] : [folded("Input", pretty(task.input), open.has("Input"))]),
      this.buttons(task),
    );
    if (focused === "h2") this.node.querySelector("h2").focus();
    else if (focused) this.node.querySelector(`[data-keep="${focused}"]`)?.focus();
  }

  words(task) {
    const lines = [task.message, task.note, task.condition && `${task.condition}: ${task.last_error}`, !task.condition && task.last_error];
    return lines.filter(Boolean).map((line) => element("p", {class: task.condition ? "trouble" : ""}, line));
  }

  facts(task) {
    const rows = [
      ["Algorithm", task.algorithm], ["Reason", task.reason], ["User", task.user], ["Key", task.key],
      ["Labels", Object.entries(task.labels ?? {}).map(([name, value]) => `${name}: ${value}`).join(", ")],
      ["Job", task.job?.id], ["The provider says", task.job?.status],
      ["Progress", task.progress === undefined ? "" : `${Math.round(task.progress * 100)} %`],
      ["Priority", task.priority], ["Starts", task.start_at && moment(task.start_at)],
      ["Deadline", task.deadline_at && !ENDS.includes(task.status) ? moment(task.deadline_at) : ""],
      ["Heartbeat", task.heartbeat_at && moment(task.heartbeat_at)],
      ["Errors in a row", task.failures], ["Cancel asked by", task.cancel_reason], ["Trace", task.traceparent],
    ];
    return element("dl", {}, ...rows.filter(([, value]) => value).flatMap(([name, value]) =>
      [element("dt", {}, name), element("dd", {}, String(value))]));
  }

  result(task, shown) {
    const parts = [];
    if (task.result_file) {
      parts.push(element("h3", {}, "Result"), element("p", {}, `${task.result_file.bytes.toLocaleString("en")} bytes, kept in a file. `,
        element("button", {type: "button", "data-keep": "save", onclick: () => save(task.id)}, "Save it")));
    } else if (task.result !== undefined) {
      parts.push(element("h3", {}, "Result"), ...mediaOf(task.result).map((media) => showing(media, shown)), code(pretty(task.result)));
    }
    for (const asset of task.assets ?? []) {
      parts.push(element("p", {}, asset.error ? `not saved: ${asset.url}: ${asset.error}` : `saved: ${asset.path} (${asset.bytes.toLocaleString("en")} bytes)`));
    }
    return parts;
  }

  buttons(task) {
    const made = [];
    const id = encodeURIComponent(task.id);
    const button = (words, act) => made.push(element("button", {type: "button", "data-keep": words, disabled: !this.mayWrite, onclick: act}, words));
    const act = (path, body) => async (given) => {
      await post(`/v1/tasks/${id}/${path}`, body?.(given));
      await this.load();
    };
    if (task.status === "unknown") {
      button("This is the job", () => confirm({title: "Which job is it?", text: "Its id at the provider. The task goes on with it; nothing is created.",
        yes: "Attach", ask: "Job", act: act("resolve", (job) => ({action: "attach", job}))}));
      button("Create it anew", () => confirm({title: "Create a job anew?", text: "If the first create arrived, there are two jobs, and both are paid for.",
        yes: "Create", act: act("resolve", () => ({action: "create"}))}));
      button("Drop the task", () => confirm({title: "Drop the task?", text: "It ends as cancelled. A job that exists goes on without anyone minding it.",
        yes: "Drop", act: act("resolve", () => ({action: "drop"}))}));
    } else if (!ENDS.includes(task.status) && !task.cancel_reason) {
      button("Cancel", () => confirm({title: "Cancel the task?", text: "The provider is asked to end its job. What that costs is the provider's affair.",
        yes: "Cancel the task", act: act("cancel")}));
    }
    const why = made.length && !this.mayWrite ? element("small", {}, "Over TCP this daemon only reads ([tcp] allow_writes).") : null;
    return element("div", {class: "buttons"}, ...made, why);
  }
}

function story(task) {
  const moments = task.story ?? [];
  return element("ol", {class: "story"}, ...moments.map((now, number) => {
    const next = moments[number + 1];
    const lasted = age((next ? Date.parse(next.at) : Date.now()) - Date.parse(now.at));
    const ended = ENDS.includes(now.status);
    return element("li", {}, element("time", {datetime: now.at, title: now.at}, clock(now.at)), badge(now.status),
      now.job_status ? element("q", {}, now.job_status) : null, ended ? null : element("small", {}, lasted));
  }));
}

function answers(task) {
  if (!task.answers?.length) return [];
  return [element("h3", {}, "Last answers of the provider"), element("ol", {class: "story"}, ...task.answers.map((one) =>
    element("li", {}, element("time", {datetime: one.at, title: one.at}, clock(one.at)), element("b", {}, one.request),
      element("q", {}, one.said), one.seconds === undefined ? null : element("small", {}, `${one.seconds.toFixed(3)} s`))))];
}

const pretty = (value) => JSON.stringify(value, null, 2);
const code = (text) => element("pre", {tabindex: 0}, text.length > 200_000 ? `${text.slice(0, 200_000)}\n… (cut here)` : text);
const folded = (title, text, open) =>
  element("details", {"data-keep": title, open}, element("summary", {"data-keep": `${title} title`}, title), code(text));

// Addresses in a result that look like a picture, a film or a sound.
function mediaOf(result) {
  const found = new Map();
  const look = (value, name) => {
    if (found.size >= MOST_MEDIA) return;
    if (typeof value === "string") {
      const kind = kindOf(value, name);
      if (kind) found.set(value, kind);
    } else if (value && typeof value === "object") {
      for (const [key, part] of Object.entries(value)) look(part, Array.isArray(value) ? name : `${name} ${key}`);
    }
  };
  look(result, "");
  return [...found].map(([url, kind]) => ({url, kind}));
}

function kindOf(text, name) {
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return null;
  const {pathname} = new URL(text);
  for (const [kind, pattern] of Object.entries(KINDS)) if (pattern.test(pathname)) return kind;
  for (const [kind, pattern] of Object.entries(NAMES)) if (pattern.test(name)) return kind;
  return null;
}

// Nothing is asked of another server before a person wants to see it.
function showing({url, kind}, shown) {
  const words = {img: "picture", video: "film", audio: "sound"}[kind];
  const place = element("p", {class: "media"});
  const show = () => {
    const media = element(kind, {src: url, controls: kind !== "img", "data-media": url, referrerpolicy: "no-referrer", alt: kind === "img" ? "From the result" : null});
    place.replaceChildren(media);
  };
  if (shown.has(url)) show();
  else place.append(element("button", {type: "button", "data-keep": url, onclick: show}, `Show the ${words} from ${new URL(url).host}`));
  return place;
}

async function save(id) {
  const blob = await (await ask(`/v1/tasks/${encodeURIComponent(id)}/result`)).blob();
  const url = URL.createObjectURL(blob);
  element("a", {href: url, download: `${id}.json`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
