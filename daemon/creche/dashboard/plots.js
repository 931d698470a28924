// Small pictures of the last minutes, drawn as SVG.

import {element} from "./format.js";

const SAMPLES = 150; // five minutes
const WIDTH = 150, HEIGHT = 36;
const SVG = "http://www.w3.org/2000/svg";

export class Figure {
  constructor(title, {show, of}) {
    this.show = show;
    this.values = [];
    this.number = element("strong", {}, "–");
    this.note = element("small");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.line = document.createElementNS(SVG, "path");
    this.svg.append(this.line);
    this.node = element("div", {class: "figure"}, element("span", {}, title), this.number, this.note, this.svg);
    this.of = of;
  }

  add(value, note = "") {
    this.values.push(value);
    if (this.values.length > SAMPLES) this.values.shift();
    this.number.textContent = this.show(value);
    this.note.textContent = note;
    const top = Math.max(...this.values, this.of ?? 0) || 1;
    const from = WIDTH - this.values.length + 1;
    this.line.setAttribute("d", this.values.map((v, i) =>
      `${i ? "L" : "M"}${from + i} ${(HEIGHT - 1 - (v / top) * (HEIGHT - 3)).toFixed(1)}`).join(""));
  }
}
