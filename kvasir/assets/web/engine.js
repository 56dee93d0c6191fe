// The engine page: asks the server once a second while it is looked at, and shows what it says.

import { get } from "./api.js";
import { BLOCK_KINDS, BlockMap, KEPT, Sparkline, bar } from "./charts.js";
import { count, duration, figure, h } from "./dom.js";
import { icon } from "./icons.js";

const EVERY_MS = 1000;
const MAX_ROWS = 14;
const MAX_LANES = 40;
const LONGEST_S = 300; // requests that ended before are not shown
const SPANS = { Fit: 0, "1 min": 60, "5 min": LONGEST_S }; // seconds on the time axis; 0: as many as the rows need
const NICE_S = [1, 2, 4, 8, 12, 20, 40, 60, 120, 180, 240, LONGEST_S];

export class EnginePage {
  #timer = 0;
  #shown = false;
  #paused = false;
  #samples = []; // {time, totals, core}, oldest first
  #span = 0;

  constructor(root) {
    this.root = root;
    this.#build();
    document.addEventListener("visibilitychange", () => this.#schedule(0));
    window.addEventListener("kvasir-key", () => this.#schedule(0));
  }

  show(shown) {
    this.#shown = shown;
    this.#schedule(0);
  }

  #schedule(delay) {
    clearTimeout(this.#timer);
    if (this.#shown && !this.#paused && !document.hidden) this.#timer = setTimeout(() => this.#poll(), delay);
  }

  async #poll() {
    const begun = performance.now();
    try {
      this.#take(await get("v1/engine/state", AbortSignal.timeout(10_000)));
    } catch (error) {
      this.#samples = [];
      this.#status("bad", error.status === 401 ? "Needs an API key" : "No answer", error.message);
      if (error.status === 401) return; // asked again when there is another key
    }
    this.#schedule(Math.max(100, EVERY_MS - (performance.now() - begun)));
  }

  // ---- what is on the page

  #build() {
    this.status = h("span", { class: "status", role: "status" });
    this.about = h("span", { class: "about" });
    this.pause = h("button", { class: "button", type: "button" });
    this.pause.addEventListener("click", () => this.#togglePause());
    this.tiles = {
      generation: new Tile("Generation", "tok/s"),
      requests: new Tile("Running", ""),
      step: new Tile("Step time", ""),
      prefix: new Tile("Prefix hits", ""),
    };
    this.map = new BlockMap();
    this.kvFigures = h("p", { class: "card-figures" });
    this.batch = h("div", {
      class: "table-scroll batch-box",
      tabindex: "0",
      role: "region",
      "aria-label": "Running batch",
    });
    this.lanes = h("div", { class: "lanes" });
    const spans = Object.entries(SPANS).map(([label, seconds]) => {
      const button = h("button", { type: "button", "aria-pressed": String(seconds === this.#span) }, label);
      button.addEventListener("click", () => {
        this.#span = seconds;
        for (const b of spans) b.setAttribute("aria-pressed", String(b === button));
        this.#drawLanes();
      });
      return button;
    });
    const legend = h("ul", { class: "legend" }, ...BLOCK_KINDS.map((k) => h("li", { class: `kv-${k.name}` }, k.title)));
    const laneLegend = h(
      "ul",
      { class: "legend" },
      ...["waiting", "answering"].map((k) => h("li", { class: `lane-${k}` }, k)),
    );
    this.root.replaceChildren(
      h(
        "div",
        { class: "engine-head" },
        h("h1", {}, "Engine"),
        this.status,
        this.about,
        h("span", { class: "spacer" }),
        this.pause,
      ),
      h("div", { class: "tiles" }, ...Object.values(this.tiles).map((t) => t.element)),
      h(
        "div",
        { class: "columns" },
        card("KV cache", this.kvFigures, this.map.element, legend),
        card("Running batch", null, this.batch),
      ),
      card(
        "Recent requests",
        h("div", { class: "segmented", role: "group", "aria-label": "Time shown" }, ...spans),
        this.lanes,
        laneLegend,
      ),
    );
    this.#drawPause();
  }

  #togglePause() {
    this.#paused = !this.#paused;
    this.#drawPause();
    if (this.#paused) this.#status("soft", "Paused", "");
    this.#schedule(0);
  }

  #drawPause() {
    this.pause.replaceChildren(icon(this.#paused ? "play" : "pause"), this.#paused ? "Go on" : "Pause");
  }

  #status(kind, text, title) {
    this.status.className = `status ${kind}`;
    if (this.status.textContent !== text) this.status.textContent = text;
    this.status.title = title;
  }

  // ---- what the server said

  #take(state) {
    const last = this.#samples.at(-1);
    if (last && (state.totals.generation_tokens < last.totals.generation_tokens || state.time <= last.time))
      this.#samples = [];
    this.#samples.push(state);
    if (this.#samples.length > KEPT + 1) this.#samples.shift();
    this.about.textContent = `${state.models[0]} · Kvasir ${state.version} · context ${count(state.max_model_len)}`;
    if (state.core === null) this.#status("bad", "Core is away", state.core_error);
    else if (state.draining) this.#status("soft", "Shutting down", "");
    else this.#status("good", state.core.num_running ? "Working" : "Idle", "");
    this.#drawTiles();
    if (state.core) {
      this.map.update(state.core);
      this.#drawKv(state.core);
      this.#drawBatch(state.core, state.time);
    }
    this.#drawLanes();
  }

  /** Rates between neighbouring samples; null where there is nothing to divide. */
  #rates() {
    return this.#samples.slice(1).map((now, i) => {
      const before = this.#samples[i];
      const seconds = now.time - before.time;
      const more = (name) => now.totals[name] - before.totals[name];
      const [core, old] = [now.core, before.core];
      const same = core && old && core.epoch === old.epoch;
      const steps = same ? core.num_steps - old.num_steps : 0;
      return {
        generation: more("generation_tokens") / seconds,
        prompt: more("prompt_tokens") / seconds,
        running: core ? core.num_running : null,
        steps: same ? steps / seconds : null,
        step_s: steps ? (core.step_s - old.step_s) / steps : null,
        step_tokens: steps ? (core.num_step_tokens - old.num_step_tokens) / steps : null,
        hits: more("prefix_cache_hits"),
      };
    });
  }

  #drawTiles() {
    const rates = this.#rates();
    const now = rates.at(-1);
    const { core } = this.#samples.at(-1);
    const line = (name) => rates.map((r) => r[name]);
    const { generation, requests, step, prefix } = this.tiles;
    generation.show(
      now ? figure(now.generation) : "–",
      now ? `prompts ${figure(now.prompt)} tok/s` : "",
      line("generation"),
    );
    requests.show(
      core ? count(core.num_running) : "–",
      core ? `of at most ${count(core.max_num_seqs)} · ${count(core.num_waiting)} waiting` : "",
      line("running"),
    );
    const stepped = now?.step_s !== null && now?.step_s !== undefined;
    step.show(
      stepped ? duration(now.step_s) : "–",
      stepped
        ? `${figure(now.step_tokens)} tokens a step · ${figure(now.steps)} steps/s`
        : "no step in the last second",
      line("step_s"),
    );
    const [first, last] = [this.#samples[0].totals, this.#samples.at(-1).totals];
    const queries = last.prefix_cache_queries - first.prefix_cache_queries;
    const hits = last.prefix_cache_hits - first.prefix_cache_hits;
    prefix.show(
      queries ? `${figure((100 * hits) / queries)} %` : "–",
      queries ? `${count(hits)} of ${count(queries)} prompt tokens` : "no prompt in this time",
      line("hits"),
    );
  }

  #drawKv(core) {
    const share = (100 * core.num_used_blocks) / core.num_blocks;
    this.kvFigures.replaceChildren(
      h("strong", {}, `${figure(share)} %`),
      ` in use: ${count(core.num_used_blocks)} of ${count(core.num_blocks)} blocks of ${core.block_size} tokens`,
    );
  }

  #drawBatch({ running, waiting, num_running, num_waiting }, now) {
    if (!num_running && !num_waiting) {
      this.batch.replaceChildren(
        h("p", { class: "empty" }, "Nothing is running. Ask something on the chat page, or send a request to the API."),
      );
      return;
    }
    const rows = [...running, ...waiting].slice(0, MAX_ROWS).map((r) => batchRow(r, now));
    const more = num_running + num_waiting - rows.length;
    this.batch.replaceChildren(
      h(
        "table",
        { class: "batch" },
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ...["Request", "State", "Prompt", "Output", "Blocks", "Age"].map((t, i) =>
              h("th", { class: i > 1 ? "right" : null, scope: "col" }, t),
            ),
          ),
        ),
        h("tbody", {}, ...rows),
      ),
      more > 0 ? h("p", { class: "empty" }, `and ${count(more)} more`) : "",
    );
  }

  /** Requests, newest first, on one time axis that ends now. */
  #drawLanes() {
    const state = this.#samples.at(-1);
    if (!state) return;
    const now = state.time;
    const core = new Map(
      [...(state.core?.running ?? []), ...(state.core?.waiting ?? [])].map((r) => [parentId(r.request_id), r]),
    );
    const known = new Set(state.recent.map((a) => a.request_id));
    const unheard = [...core]
      .filter(([id]) => !known.has(id))
      .map(([id, r]) => ({ ...r, request_id: id, first_token_time: 0, finish_time: 0, finish_reason: null }));
    const since = now - (this.#span || LONGEST_S);
    const all = [...state.recent, ...unheard].filter((a) => !a.finish_reason || a.finish_time > since);
    all.sort((a, b) => b.arrival_time - a.arrival_time);
    if (!all.length) {
      this.lanes.replaceChildren(h("p", { class: "empty" }, "No request in this time."));
      return;
    }
    const rows = all.slice(0, MAX_LANES);
    const needed = now - Math.min(...rows.map((a) => a.arrival_time));
    const span = this.#span || (NICE_S.find((s) => s >= needed) ?? LONGEST_S);
    this.lanes.replaceChildren(
      scale(span),
      ...rows.map((a) => lane(a, [now - span, now], core.get(a.request_id))),
      all.length > rows.length ? h("p", { class: "empty" }, `and ${count(all.length - rows.length)} older ones`) : "",
    );
  }
}

class Tile {
  constructor(label, unit) {
    this.value = h("span", { class: "tile-value" }, "–");
    this.sub = h("p", { class: "tile-sub" });
    this.spark = new Sparkline();
    this.element = h(
      "section",
      { class: "tile", "aria-label": label, data: { tile: label } },
      h("h2", {}, label),
      h("p", { class: "tile-figure" }, this.value, unit && h("span", { class: "tile-unit" }, unit)),
      this.sub,
      this.spark.element,
    );
  }

  show(value, sub, values) {
    this.value.textContent = value;
    this.sub.textContent = sub || "\u00a0";
    this.spark.update(values);
  }
}

function card(title, side, ...content) {
  return h(
    "section",
    { class: "card", "aria-label": title },
    h("div", { class: "card-head" }, h("h2", {}, title), side),
    ...content,
  );
}

/** Without the number that one of several answers to a request has in front. */
const parentId = (id) => id.replace(/^\d+_/, "");

const shortId = (id) => parentId(id).slice(0, 8);

/** What a request that has not ended is at. */
function phase(r) {
  if (r.state !== "running") return r.state;
  if (r.num_output_tokens) return "answering";
  return `prompt ${Math.round(Math.min(1, r.num_computed_tokens / r.num_prompt_tokens) * 100)} %`;
}

function batchRow(r, now) {
  const state = phase(r);
  const cached = r.num_cached_tokens
    ? h("span", { class: "soft", title: "found in the prefix cache" }, ` (${count(r.num_cached_tokens)} hit)`)
    : null;
  return h(
    "tr",
    {},
    h("td", { class: "mono", title: r.request_id }, shortId(r.request_id)),
    h("td", {}, h("span", { class: `badge ${r.state}` }, state)),
    h("td", { class: "right" }, count(r.num_prompt_tokens), cached),
    h("td", { class: "right" }, count(r.num_output_tokens)),
    h("td", { class: "right" }, count(r.num_blocks)),
    h("td", { class: "right" }, duration(Math.max(0, now - r.arrival_time))),
  );
}

function scale(span) {
  const label = (s) => (s >= 60 && s % 60 === 0 ? `${s / 60} min` : `${figure(s)} s`);
  const marks = [1, 0.75, 0.5, 0.25, 0].map((part) => h("span", {}, part ? `−${label(span * part)}` : "now"));
  return h(
    "div",
    { class: "lane axis", "aria-hidden": "true" },
    h("span"),
    h("div", { class: "track-scale" }, ...marks),
    h("span", { class: "lane-facts" }, "prompt → output · first token · speed"),
  );
}

/** @param {Object} a a recent answer @param {Object} [live] what the core says of it while it goes on */
function lane(a, axis, live) {
  const end = a.finish_time || axis[1];
  const first = a.first_token_time || end;
  const made = a.finish_reason ? a.num_output_tokens : (live?.num_output_tokens ?? 0);
  const wait = Math.max(0, first - a.arrival_time);
  const answering = Math.max(0, end - first);
  const facts = [`${count(a.num_prompt_tokens)} → ${count(made)}`];
  if (a.first_token_time) facts.push(duration(wait));
  if (made > 1 && answering > 0) facts.push(`${figure((made - 1) / answering)} tok/s`);
  const now = a.finish_reason ?? (live ? phase(live) : "answering");
  const title = [
    a.request_id,
    `${count(a.num_prompt_tokens)} prompt tokens, ${count(a.num_cached_tokens)} of them cached`,
    `${count(made)} tokens`,
    a.first_token_time ? `first token after ${duration(wait)}` : "no token yet",
    now,
  ].join("\n");
  return h(
    "div",
    { class: "lane", title },
    h("span", { class: "mono lane-id" }, shortId(a.request_id)),
    h(
      "div",
      { class: "track" },
      bar("wait", a.arrival_time, first, axis) ?? "",
      (a.first_token_time && bar(`decode ${a.finish_reason ?? "live"}`, first, end, axis)) || "",
    ),
    h("span", { class: "lane-facts" }, facts.join(" · "), " ", h("span", { class: `badge ${now.split(" ")[0]}` }, now)),
  );
}
