// Text of a paragraph -> nodes: code, bold, italic, struck out, links. Everything else stays text.
//
// Each text node knows where in the source it came from (`sourceOf`), so that a word on the screen can be traced to
// its token. All searches are bounded, for a model may write the same mark ten thousand times.

import { h } from "./dom.js";

const MAX_DEPTH = 8;
const MAX_LABEL = 500;
const MAX_URL = 2000;

const positions = new WeakMap();

/** Where in the markdown source a text node begins; undefined for text that is not from there. */
export const sourceOf = (node) => positions.get(node);

/** A text node for source[at .. at + text.length]. */
export function textAt(text, at) {
  const node = document.createTextNode(text);
  positions.set(node, at);
  return node;
}

/** A piece of source that may span lines whose indentation was taken away. */
export class Span {
  /** @param {{text: string, at: number}[]} lines */
  constructor(lines) {
    this.text = lines.map((line) => line.text).join("\n");
    this.starts = [];
    let start = 0;
    for (const line of lines) {
      this.starts.push([start, line.at]);
      start += line.text.length + 1;
    }
  }

  source(index) {
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle][0] <= index) low = middle;
      else high = middle - 1;
    }
    return this.starts[low][1] + index - this.starts[low][0];
  }
}

const SPECIAL = /[\\`*_~[!\n]|https?:\/\//g;

/** Appends the nodes of span[from .. to] to `parent`. */
export function inline(parent, span, from = 0, to = span.text.length, depth = 0) {
  new Run(span, to, depth).into(parent, from);
}

class Run {
  constructor(span, to, depth) {
    this.span = span;
    this.text = span.text;
    this.to = to;
    this.depth = depth;
    this.unclosed = new Set(); // marks that nothing closes from here on: not searched for again
  }

  into(parent, from) {
    let plain = from; // text[plain .. at] is waiting to become a text node
    let at = from;
    const flush = (end) => {
      if (end > plain) parent.append(textAt(this.text.slice(plain, end), this.span.source(plain)));
    };
    while (at < this.to) {
      SPECIAL.lastIndex = at;
      const found = SPECIAL.exec(this.text);
      if (!found || found.index >= this.to) break;
      at = found.index;
      const made = this.element(at, found[0]);
      if (!made) {
        at += found[0].length;
        continue;
      }
      flush(at);
      if (made.node) parent.append(made.node);
      plain = made.keep ?? made.end;
      at = made.end;
    }
    flush(this.to);
  }

  /** {node, end}: the element that begins here; {keep, end}: text from `keep` on that is not to be looked at. */
  element(at, mark) {
    if (mark === "\n") return { node: h("br"), end: at + 1 };
    if (mark === "\\") return this.escape(at);
    if (mark === "`") return this.code(at);
    if (mark === "[" || mark === "!") return this.link(at);
    if (mark.startsWith("http")) return this.bareLink(at);
    return this.emphasis(at, mark);
  }

  escape(at) {
    return /[!-/:-@[-`{-~]/.test(this.text[at + 1] ?? "") && at + 1 < this.to ? { keep: at + 1, end: at + 2 } : null;
  }

  code(at) {
    const ticks = /`+/y;
    ticks.lastIndex = at;
    const fence = ticks.exec(this.text)[0];
    let close = this.unclosed.has(fence) ? -1 : at + fence.length;
    for (;;) {
      close = close < 0 ? -1 : this.text.indexOf(fence, close);
      if (close < 0 || close + fence.length > this.to) {
        this.unclosed.add(fence);
        return { keep: at, end: at + fence.length };
      }
      if (this.text[close + fence.length] !== "`" && this.text[close - 1] !== "`") break;
      while (this.text[close] === "`") close += 1;
    }
    let [start, end] = [at + fence.length, close];
    const padded = this.text[start] === " " && this.text[end - 1] === " " && this.text.slice(start, end).trim();
    if (padded) [start, end] = [start + 1, end - 1];
    return {
      node: h("code", {}, textAt(this.text.slice(start, end), this.span.source(start))),
      end: close + fence.length,
    };
  }

  emphasis(at, letter) {
    const run = this.runLength(at, letter);
    if (this.depth >= MAX_DEPTH || (letter === "~" && run < 2)) return { keep: at, end: at + run };
    const mark = letter.repeat(Math.min(run, letter === "~" ? 2 : run >= 3 ? 3 : run));
    const before = this.text[at - 1] ?? " ";
    const after = this.text[at + mark.length] ?? " ";
    const opens = !/\s/.test(after) && !(letter === "_" && /[\p{L}\p{N}]/u.test(before));
    const close = opens ? this.closing(mark, letter, at + mark.length) : -1;
    if (close < 0) return { keep: at, end: at + run };
    const names = { "~~": ["del"], 1: ["em"], 2: ["strong"], 3: ["strong", "em"] }[letter === "~" ? mark : mark.length];
    const inner = h(names.at(-1));
    inline(inner, this.span, at + mark.length, close, this.depth + 1);
    return { node: names.length > 1 ? h(names[0], {}, inner) : inner, end: close + mark.length };
  }

  /** Index of the mark that closes what was opened before `from`, or -1. */
  closing(mark, letter, from) {
    if (this.unclosed.has(mark)) return -1;
    for (let at = from; ;) {
      at = this.text.indexOf(mark, at);
      if (at < 0 || at + mark.length > this.to) break;
      const run = this.runLength(at, letter);
      const followed = this.text[at + run] ?? " ";
      const closes = !/[\s\\]/.test(this.text[at - 1]) && !(letter === "_" && /[\p{L}\p{N}]/u.test(followed));
      if (closes && at > from && (run === mark.length || run > 3)) return at;
      if (closes && at > from && run === 3) return at + 3 - mark.length; // **bold *and this***
      at += run;
    }
    this.unclosed.add(mark);
    return -1;
  }

  runLength(at, letter) {
    let end = at;
    while (end < this.to && this.text[end] === letter) end += 1;
    return end - at;
  }

  /** [label](address). Images are links too: the page loads nothing that the model names. */
  link(at) {
    const open = this.text[at] === "!" ? at + 1 : at;
    if (this.text[open] !== "[" || this.depth >= MAX_DEPTH) return null;
    const close = this.balanced(open, "[", "]", MAX_LABEL);
    if (close < 0 || this.text[close + 1] !== "(") return null;
    const end = this.balanced(close + 1, "(", ")", MAX_URL);
    if (end < 0) return null;
    const address = this.text
      .slice(close + 2, end)
      .trim()
      .split(/\s/)[0];
    const node = anchor(address);
    if (!node) return null;
    inline(node, this.span, open + 1, close, this.depth + 1);
    return { node, end: end + 1 };
  }

  balanced(open, opening, closing, most) {
    let depth = 0;
    for (let at = open; at < Math.min(this.to, open + most); at++) {
      const letter = this.text[at];
      if (letter === "\\") at += 1;
      else if (letter === opening) depth += 1;
      else if (letter === closing && --depth === 0) return at;
    }
    return -1;
  }

  bareLink(at) {
    const address = /https?:\/\/[^\s<>"'`]{1,2000}/y;
    address.lastIndex = at;
    let text = address.exec(this.text.slice(0, this.to))?.[0].replace(/[.,;:!?*_~]+$/, "");
    if (text?.endsWith(")") && !text.includes("(")) text = text.slice(0, -1);
    const node = text && anchor(text);
    if (!node) return null;
    node.append(textAt(text, this.span.source(at)));
    return { node, end: at + text.length };
  }
}

/** A link that leads out of here and says nothing about where it was followed; null for anything but the web and mail. */
function anchor(address) {
  if (!/^(https?:|mailto:)/i.test(address)) return null;
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer", title: address });
}
