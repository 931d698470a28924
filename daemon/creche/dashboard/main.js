// The page: what the daemon tells goes into the state, and a few times in a second the state is drawn.

import {confirm} from "./confirm.js";
import {Stream, getJson, useToken} from "./daemon.js";
import {Detail} from "./detail.js";
import {age, count, element, seconds} from "./format.js";
import {Figure} from "./plots.js";
import {Table} from "./table.js";
import {ENDS, STATUSES, Tasks} from "./tasks.js";

const DRAW_EVERY_MS = 250;
const LOOK_EVERY_MS = 10_000;

const by = (id) => document.getElementById(id);
const tasks = new Tasks();
const wants = {view: "flight", query: "", status: "", algorithm: ""};
let lostAt = null;
let faults = [];
let conditions = {};
let drawn = "";

const detail = new Detail(by("detail"), {closed: () => remember(true)});
const table = new Table({area: by("rows"), table: by("table"), body: by("body"), nothing: by("nothing"), open: (id, link) => {
  detail.open(id, link);
  remember(true);
}});

// -- the address of this page says what is seen ------------------------------------------------------

function remember(isStep = false) {
  const query = new URLSearchParams(Object.entries({...wants, view: wants.view === "flight" ? "" : wants.view, task: detail.id}).filter(([, value]) => value));
  const address = query.size ? `?${query}` : location.pathname;
  if (isStep) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
}

function recall() {
  const query = new URLSearchParams(location.search);
  for (const name of Object.keys(wants)) wants[name] = query.get(name) ?? "";
  wants.view = wants.view === "ended" ? "ended" : "flight";
  by("query").value = wants.query;
  offer(by("status"), wants.view === "ended" ? ENDS : STATUSES.filter((status) => !ENDS.includes(status)), wants.status);
  by("algorithm").value = wants.algorithm;
  const task = query.get("task");
  if (task && task !== detail.id) detail.open(task);
  else if (!task && detail.id) detail.close();
  drawn = "";
}

function offer(select, values, chosen) {
  const all = chosen && !values.includes(chosen) ? [...values, chosen] : values;
  select.replaceChildren(element("option", {value: ""}, "any"), ...all.map((value) => element("option", {value}, value.replace("_", " "))));
  select.value = chosen;
}

function want(changes) {
  Object.assign(wants, changes);
  remember();
  recall();
  by("rows").scrollTop = 0;
  draw();
}

by("show-flight").onclick = () => want({view: "flight", status: ""});
by("show-ended").onclick = () => want({view: "ended", status: ""});
by("query").oninput = () => want({query: by("query").value});
by("status").onchange = () => want({status: by("status").value});
by("algorithm").onchange = () => want({algorithm: by("algorithm").value});
window.onpopstate = recall;
window.onresize = () => table.draw();
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    by("query").focus();
  }
});

// -- figures -----------------------------------------------------------------------------------------

const figures = {
  flight: new Figure("In flight", {show: count}),
  ends: new Figure("Ended per minute", {show: (value) => count(Math.round(value))}),
  polls: new Figure("Polls per second", {show: (value) => count(Math.round(value))}),
  troubled: new Figure("Troubled by their provider", {show: count}),
  lag: new Figure("Loop lag", {show: seconds, of: 0.1}),
  beat: new Figure("Last heartbeat", {show: seconds, of: 5}),
};
by("figures").append(...Object.values(figures).map((figure) => figure.node));

const sum = (counts) => Object.values(counts).reduce((total, number) => total + number, 0);

let before = null;
function figure(stats) {
  const now = {at: Date.parse(stats.at), ends: sum(stats.settled), polls: sum(stats.polls)};
  const words = Object.entries(stats.tasks).filter(([, number]) => number).map(([status, number]) => `${count(number)} ${status}`).join(", ");
  figures.flight.add(sum(stats.tasks), words);
  if (before && now.at > before.at && now.ends >= before.ends) {
    const passed = (now.at - before.at) / 1000;
    figures.ends.add(((now.ends - before.ends) / passed) * 60, `${count(now.ends)} since the start`);
    figures.polls.add((now.polls - before.polls) / passed, `${count(now.polls - (stats.polls.good ?? 0))} were errors`);
  }
  before = now;
  const troubled = Object.entries(stats.conditions).map(([name, found]) => `${name}: ${Object.entries(found).map(([condition, number]) => `${number} ${condition}`).join(", ")}`);
  figures.troubled.add(sum(Object.values(stats.conditions).map(sum)), troubled.join("; "));
  figures.lag.add(stats.loop_lag_s);
  figures.beat.add(stats.heartbeat_age_s);
  conditions = stats.conditions;
  faults = stats.faults;
}

// -- what the daemon says of itself -------------------------------------------------------------------

async function look() {
  const [status, {algorithms}] = await Promise.all([getJson("/v1/status"), getJson("/v1/algorithms")]);
  by("node").textContent = `${status.version}, up ${age(status.uptime_s * 1000)}${status.draining ? ", stopping" : ""}`;
  if (detail.mayWrite !== status.allow_writes) {
    detail.mayWrite = status.allow_writes;
    if (detail.id) detail.load();
  }
  by("algorithms").replaceChildren(...algorithms.map((row) => element("tr", {},
    element("td", {}, row.name), element("td", {}, `${row.title || row.recipe}, ${row.base}`),
    element("td", {}, row.limit === null ? count(row.in_flight) : `${count(row.in_flight)} of ${count(row.limit)}`), element("td", {}, count(row.waiting)),
    element("td", {class: "trouble"}, Object.entries(conditions[row.name] ?? row.conditions).map(([name, number]) => `${count(number)} ${name}`).join(", ")))));
  const names = algorithms.map((row) => row.name);
  if (by("algorithm").options.length !== names.length + 1) offer(by("algorithm"), names, wants.algorithm);
  by("fleet").hidden = !status.fleet;
  by("nodes").replaceChildren(...(status.fleet?.nodes ?? []).map((node) => element("tr", {},
    element("td", {}, node.id + (node.id === status.fleet.member ? " (this one)" : "")), element("td", {}, node.host),
    element("td", {}, `${count(node.tasks)} of ${count(node.capacity)}`), element("td", {}, `${seconds(node.silent_s)} ago`))));
}

// -- drawing -----------------------------------------------------------------------------------------

function draw() {
  const {view, query, status, algorithm} = wants;
  by("show-flight").setAttribute("aria-pressed", view === "flight");
  by("show-ended").setAttribute("aria-pressed", view === "ended");
  by("flight-count").textContent = count(tasks.inFlight.size);
  by("ended-count").textContent = count(tasks.ended.size);
  by("age-title").textContent = view === "ended" ? "Took" : "Age";
  const found = tasks.wanted(wants);
  const filtered = query || status || algorithm;
  table.show(found, filtered ? "No task is like that." : view === "ended" ? "Nothing has ended yet." : "Nothing is in flight.");
}

setInterval(() => {
  const now = `${tasks.version} ${Math.floor(Date.now() / 1000)}`;
  if (now === drawn || document.hidden) return;
  drawn = now;
  draw();
  const words = [...faults.map((fault) => `Fault: ${fault}`)];
  if (lostAt !== null && Date.now() - lostAt > 2000) words.unshift(`The daemon is away since ${age(Date.now() - lostAt)}; this is what was seen last.`);
  const told = [...by("alarms").children].map((line) => line.textContent);
  if (told.join("\n") !== words.join("\n")) by("alarms").replaceChildren(...words.map((line) => element("p", {class: "alarm"}, line)));
}, DRAW_EVERY_MS);

// -- listening ---------------------------------------------------------------------------------------

const stream = new Stream({
  async opened() {
    lostAt = null;
    document.body.classList.remove("stale");
    by("state").textContent = "live";
    try {
      await Promise.all([tasks.load(), look()]);
    } catch (error) {
      by("state").textContent = error.message; // the stream comes back, and with it another try
    }
  },
  heard(message) {
    if (message.type === "update" || message.type === "result") {
      tasks.put(message.task);
      detail.noticed(message.task);
    } else if (message.type === "stats") figure(message);
  },
  lost() {
    lostAt ??= Date.now();
    before = null;
    document.body.classList.add("stale");
    by("state").textContent = "the daemon is away";
  },
});

async function begin() {
  try {
    await look();
  } catch (error) {
    if (error.status === 401) {
      confirm({title: "This daemon wants a token", text: "It is kept until the browser's tab is closed.", yes: "Go on", no: "", ask: "Token", secret: true, act: async (text) => {
        useToken(text);
        await look();
        stream.open();
      }});
      return;
    }
  }
  stream.open();
}

setInterval(() => lostAt === null && !document.hidden && look().catch(() => {}), LOOK_EVERY_MS);
recall();
begin();
