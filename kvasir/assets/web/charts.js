// Drawings of the engine page: a line of the last minutes, the map of KV blocks, bars on a time axis.

import { count, h, svg } from "./dom.js";

export const KEPT = 120; // samples of a line
const LEAST = 30; // a young line does not fill the width

/** A line with the newest value at the right. `update` takes the values, oldest first; null is a gap. */
export class Sparkline {
  constructor() {
    this.area = svg("path", { class: "spark-area" });
    this.line = svg("path", { class: "spark-line" });
    this.element = svg(
      "svg",
      { class: "spark", preserveAspectRatio: "none", "aria-hidden": "true" },
      this.area,
      this.line,
    );
  }

  update(values) {
    const top = Math.max(1e-9, ...values.map((v) => v ?? 0)) * 1.15;
    const width = Math.max(LEAST, values.length) - 1;
    this.element.setAttribute("viewBox", `0 0 ${width} 100`);
    const runs = [[]];
    values.forEach((value, i) => {
      if (value === null) runs.push([]);
      else runs.at(-1).push([width + 1 - values.length + i, 98 - (value / top) * 96]);
    });
    const drawn = runs.filter((run) => run.length > 1);
    const path = (run) => run.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y.toFixed(2)}`).join("");
    this.line.setAttribute("d", drawn.map(path).join(""));
    this.area.setAttribute("d", drawn.map((run) => `${path(run)}L${run.at(-1)[0]} 100L${run[0][0]} 100Z`).join(""));
  }
}

export const BLOCK_KINDS = [
  { name: "free", title: "Free", color: "--kv-free" },
  { name: "cached", title: "Free, content kept", color: "--kv-cached" },
  { name: "used", title: "In use", color: "--kv-used" },
  { name: "shared", title: "Shared by requests", color: "--kv-shared" },
];

/** One square a cell, as large as fits. */
export class BlockMap {
  #state = null;

  constructor() {
    this.canvas = h("canvas", { role: "img" });
    this.note = h("p", { class: "map-note", "aria-hidden": "true" }, "\u00a0");
    this.element = h("div", { class: "map" }, this.canvas, this.note);
    this.canvas.addEventListener("pointermove", (event) => this.#name(event));
    this.canvas.addEventListener("pointerleave", () => (this.note.textContent = this.#scale()));
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  update(core) {
    this.#state = core;
    this.canvas.setAttribute(
      "aria-label",
      `Map of KV blocks: ${count(core.num_used_blocks)} of ${count(core.num_blocks)} in use`,
    );
    if (!this.canvas.matches(":hover")) this.note.textContent = this.#scale();
    this.#draw();
  }

  #scale() {
    const n = this.#state?.blocks_per_cell;
    return !n ? "\u00a0" : n === 1 ? "A square is one block." : `A square is ${count(n)} neighbouring blocks.`;
  }

  #draw() {
    const width = this.element.clientWidth;
    if (!this.#state || !width) return;
    const { block_map: cells } = this.#state;
    const most = 240; // pixels of height
    const pitch = Math.max(3, Math.min(18, Math.floor(Math.sqrt((width * most) / cells.length))));
    const columns = Math.floor(width / pitch);
    const rows = Math.ceil(cells.length / columns);
    this.layout = { pitch, columns };
    const scale = devicePixelRatio || 1;
    const { canvas } = this;
    canvas.width = Math.round(columns * pitch * scale);
    canvas.height = Math.round(rows * pitch * scale);
    canvas.style.width = `${columns * pitch}px`;
    canvas.style.height = `${rows * pitch}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const styles = getComputedStyle(canvas);
    const gap = pitch > 4 ? 1.5 : 1;
    BLOCK_KINDS.forEach(({ color }, kind) => {
      context.fillStyle = styles.getPropertyValue(color);
      const digit = String(kind);
      for (let i = cells.indexOf(digit); i >= 0; i = cells.indexOf(digit, i + 1))
        context.fillRect((i % columns) * pitch, Math.floor(i / columns) * pitch, pitch - gap, pitch - gap);
    });
  }

  #name({ offsetX, offsetY }) {
    const { pitch, columns } = this.layout ?? {};
    const i = Math.floor(offsetY / pitch) * columns + Math.floor(offsetX / pitch);
    const kind = BLOCK_KINDS[this.#state?.block_map[i]];
    if (!kind) return;
    const per = this.#state.blocks_per_cell;
    const first = i * per;
    const blocks =
      per === 1 ? `Block ${first}` : `Blocks ${first} to ${Math.min(first + per, this.#state.num_blocks) - 1}`;
    this.note.textContent = `${blocks}: ${kind.title.toLowerCase()}`;
  }
}

/** A bar from `from` to `to` (seconds on the axis [start, end]); null when all of it is outside. */
export function bar(kind, from, to, [start, end], title) {
  const left = Math.max(from, start);
  const right = Math.min(to, end);
  if (right <= start || left >= end || right < left) return null;
  const element = h("span", { class: `span ${kind}`, title });
  element.style.left = `${((left - start) / (end - start)) * 100}%`;
  element.style.width = `max(2px, ${((right - left) / (end - start)) * 100}%)`;
  return element;
}
