// A list of any length, of which only what can be seen is in the document.

import {age, element} from "./format.js";

const ROW_PX = 40; // as in the style
const BEYOND = 10;

export class Table {
  constructor({area, table, body, nothing, open}) {
    Object.assign(this, {area, table, body, nothing, open});
    this.rows = new Map();
    this.tasks = [];
    this.above = element("tr", {class: "gap", "aria-hidden": "true"}, element("td"));
    this.below = this.above.cloneNode(true);
    this.body.append(this.above, this.below);
    let due = false;
    area.addEventListener("scroll", () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        this.draw();
      });
    }, {passive: true});
  }

  show(tasks, words) {
    this.tasks = tasks;
    this.table.setAttribute("aria-rowcount", tasks.length + 1);
    this.nothing.hidden = tasks.length > 0;
    this.nothing.textContent = words;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.area.scrollTop / ROW_PX) - BEYOND);
    const last = Math.min(this.tasks.length, first + Math.ceil(this.area.clientHeight / ROW_PX) + 2 * BEYOND);
    this.above.firstChild.style.height = `${first * ROW_PX}px`;
    this.below.firstChild.style.height = `${(this.tasks.length - last) * ROW_PX}px`;
    const seen = new Set(this.tasks.slice(first, last).map((task) => task.id));
    for (const [id, row] of this.rows) {
      if (seen.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    let place = this.above.nextSibling;
    for (let index = first; index < last; index++) {
      const task = this.tasks[index];
      const row = this.rows.get(task.id) ?? this.make(task);
      this.rows.set(task.id, row);
      this.fill(row, task);
      row.setAttribute("aria-rowindex", index + 2);
      if (row === place) place = place.nextSibling; // a row that is moved loses the focus; this one stays
      else this.body.insertBefore(row, place);
    }
  }

  make(task) {
    const cells = Array.from({length: 7}, () => element("td"));
    const link = element("a", {href: `?task=${encodeURIComponent(task.id)}`, onclick: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.open(task.id, link);
    }}, task.id);
    cells[1].append(link);
    const row = element("tr", {}, ...cells);
    row.cells_ = cells;
    return row;
  }

  fill(row, task) {
    const cells = row.cells_;
    set(cells[5], age((task.until ?? Date.now()) - (task.until ? Date.parse(task.job?.since ?? task.accepted_at) : task.from)));
    if (row.task === task) return;
    row.task = task;
    cells[0].replaceChildren(badge(task.status));
    set(cells[2], task.algorithm);
    set(cells[3], task.user ?? "");
    cells[4].replaceChildren(...progress(task));
    set(cells[6], task.condition ? `${task.condition}: ${task.last_error ?? ""}` : task.message ?? task.note ?? "");
    cells[6].classList.toggle("trouble", Boolean(task.condition));
  }
}

function set(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
  if (cell.title !== text) cell.title = text;
}

export const badge = (status) => element("span", {class: `badge ${status}`}, status.replace("_", " "));

function progress(task) {
  if (task.progress === undefined) return [];
  const text = `${Math.round(task.progress * 100)} %`;
  return task.until ? [text] : [element("progress", {value: task.progress, max: 1, "aria-label": `Progress of ${task.id}`}, text)];
}
