// Markdown -> elements: headings, paragraphs, lists, quotes, tables, code. Safe by construction: only text nodes and a
// fixed set of elements are made. HTML in the source is text like any other.

import { copyButton, h } from "./dom.js";
import { icon } from "./icons.js";
import { Span, inline, textAt } from "./inline.js";

const MAX_DEPTH = 10;
const MAX_INLINE = 50_000;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*?))?\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})[.)])(\s+|$)/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

/** Shows markdown that grows. Blocks that did not change keep their elements. */
export class Markdown {
  #shown = []; // [{key, element}]

  constructor(root) {
    this.root = root;
  }

  update(source) {
    const blocks = blocksOf(linesOf(source));
    let same = 0;
    const keyOf = (b) => `${b.kind} ${b.lines[0].at} ${source.slice(b.lines[0].at, endOf(b))}`;
    const keys = blocks.map(keyOf);
    while (same < keys.length && this.#shown[same]?.key === keys[same]) same += 1;
    for (const { element } of this.#shown.splice(same)) element.remove();
    for (let i = same; i < blocks.length; i++) {
      const element = render(blocks[i], 0);
      this.#shown.push({ key: keys[i], element });
      this.root.append(element);
    }
  }
}

function endOf(block) {
  const last = block.lines.at(-1);
  return last.at + last.text.length;
}

/** Lines with their place in the source. */
function linesOf(source) {
  let at = 0;
  return source.split("\n").map((raw) => {
    const line = { text: raw.endsWith("\r") ? raw.slice(0, -1) : raw, at };
    at += raw.length + 1;
    return line;
  });
}

/** Lines -> [{kind, lines, ...}]; what is inside of a block is looked at when it is rendered. */
function blocksOf(lines) {
  const blocks = [];
  let i = 0;
  while (i < lines.length) {
    if (!lines[i].text.trim()) {
      i += 1;
      continue;
    }
    const [block, next] = blockAt(lines, i);
    blocks.push(block);
    i = next;
  }
  return blocks;
}

function blockAt(lines, i) {
  const { text } = lines[i];
  let match;
  if ((match = FENCE.exec(text))) return fenced(lines, i, match);
  if ((match = HEADING.exec(text))) return [{ kind: "heading", lines: [lines[i]], level: match[1].length }, i + 1];
  if (RULE.test(text)) return [{ kind: "rule", lines: [lines[i]] }, i + 1];
  if (QUOTE.test(text)) return quote(lines, i);
  if (ITEM.test(text)) return list(lines, i);
  if (text.includes("|") && DIVIDER.test(lines[i + 1]?.text ?? "") && lines[i + 1].text.includes("-"))
    return table(lines, i);
  let end = i + 1;
  while (end < lines.length && !interrupts(lines, end)) end += 1;
  return [{ kind: "paragraph", lines: lines.slice(i, end) }, end];
}

/** Whether line i ends a paragraph. */
function interrupts(lines, i) {
  const { text } = lines[i];
  return (
    !text.trim() || FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || ITEM.test(text)
  );
}

function fenced(lines, i, [, fence, language]) {
  const indent = /^ */.exec(lines[i].text)[0].length;
  let end = i + 1;
  const closes = (text) => text.trim().startsWith(fence) && !text.trim().replaceAll(fence[0], "");
  while (end < lines.length && !closes(lines[end].text)) end += 1;
  const body = lines.slice(i + 1, end).map((line) => dedent(line, indent));
  return [{ kind: "code", lines: lines.slice(i, end + 1), body, language: language.trim().split(/\s/)[0] }, end + 1];
}

function quote(lines, i) {
  let end = i;
  while (end < lines.length && lines[end].text.trim() && (QUOTE.test(lines[end].text) || !interrupts(lines, end)))
    end += 1;
  const body = lines.slice(i, end).map((line) => {
    const cut = QUOTE.exec(line.text)?.[0].length ?? 0;
    return { text: line.text.slice(cut), at: line.at + cut };
  });
  return [{ kind: "quote", lines: lines.slice(i, end), body }, end];
}

/** Items and what is indented below them. A line deeper than its item's mark belongs to the item. */
function list(lines, i) {
  const first = ITEM.exec(lines[i].text);
  const ordered = first[3] !== undefined;
  const items = [];
  let end = i;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end].text);
    if (!match || (match[3] !== undefined) !== ordered || RULE.test(lines[end].text)) break;
    const indent = match[1].length;
    const width = match[0].length;
    const item = [{ text: lines[end].text.slice(width), at: lines[end].at + width }];
    end += 1;
    let blank = false;
    for (; end < lines.length; end++) {
      const { text } = lines[end];
      if (!text.trim()) {
        blank = true;
        item.push(lines[end]);
        continue;
      }
      const depth = /^\s*/.exec(text)[0].length;
      if (depth <= indent + (ITEM.test(text) ? 1 : 0) && (blank || interrupts(lines, end))) break;
      item.push(dedent(lines[end], depth > indent ? width : 0));
      blank = false;
    }
    items.push(item);
  }
  return [{ kind: "list", lines: trimmed(lines.slice(i, end)), ordered, start: Number(first[3] ?? 1), items }, end];
}

const trimmed = (lines) => lines.slice(0, lines.findLastIndex((line) => line.text.trim()) + 1);

function dedent(line, most) {
  const cut = Math.min(most, /^\s*/.exec(line.text)[0].length);
  return { text: line.text.slice(cut), at: line.at + cut };
}

function table(lines, i) {
  let end = i + 2;
  while (end < lines.length && lines[end].text.includes("|") && lines[end].text.trim()) end += 1;
  const aligns = cells(lines[i + 1]).map(({ text }) => {
    const [left, right] = [text.startsWith(":"), text.endsWith(":")];
    return left && right ? "center" : right ? "right" : null;
  });
  const rows = [lines[i], ...lines.slice(i + 2, end)].map(cells);
  return [{ kind: "table", lines: lines.slice(i, end), aligns, rows }, end];
}

/** The cells of a table's row, trimmed. */
function cells({ text, at }) {
  const found = [];
  let start = 0;
  for (let i = 0; i <= text.length; i++) {
    if (i < text.length && (text[i] !== "|" || text[i - 1] === "\\")) continue;
    const raw = text.slice(start, i);
    const lead = raw.length - raw.trimStart().length;
    found.push({ text: raw.trim(), at: at + start + lead });
    start = i + 1;
  }
  if (!found[0].text) found.shift();
  if (found.length && !found.at(-1).text) found.pop();
  return found;
}

function render(block, depth) {
  return RENDER[block.kind](block, depth);
}

function renderAll(parent, lines, depth) {
  for (const block of depth < MAX_DEPTH ? blocksOf(lines) : [{ kind: "paragraph", lines }])
    parent.append(render(block, depth));
}

function fill(parent, lines) {
  const span = new Span(lines);
  if (span.text.length <= MAX_INLINE) inline(parent, span);
  else for (const line of lines) parent.append(textAt(line.text, line.at), "\n");
  return parent;
}

const RENDER = {
  paragraph: ({ lines }) =>
    fill(
      h("p"),
      lines.map((line) => dedent(line, Infinity)),
    ),

  heading({ lines: [line], level }) {
    const start = line.text.search(/[^\s#]/);
    const text = start < 0 ? "" : line.text.slice(start).replace(/\s+#*\s*$/, "");
    return fill(h(`h${Math.min(level + 2, 6)}`, { class: `h${level}` }), [{ text, at: line.at + Math.max(start, 0) }]);
  },

  rule: () => h("hr"),

  quote({ body }, depth) {
    const element = h("blockquote");
    renderAll(element, body, depth + 1);
    return element;
  },

  code({ body, language }) {
    const code = h("code");
    body.forEach((line, i) => code.append(textAt(i + 1 < body.length ? `${line.text}\n` : line.text, line.at)));
    return h(
      "figure",
      { class: "code" },
      h(
        "figcaption",
        {},
        h("span", {}, language || "text"),
        copyButton(() => body.map((line) => line.text).join("\n"), icon, "Copy code"),
      ),
      h("pre", { tabindex: "0", role: "region", "aria-label": `Code, ${language || "text"}` }, code),
    );
  },

  list({ ordered, start, items }, depth) {
    const element = h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? start : null });
    for (const item of items) {
      const li = h("li");
      const blocks = depth < MAX_DEPTH ? blocksOf(item) : [{ kind: "paragraph", lines: item }];
      blocks.forEach((block, i) => {
        if (i === 0 && block.kind === "paragraph")
          fill(
            li,
            block.lines.map((line) => dedent(line, Infinity)),
          );
        else li.append(render(block, depth + 1));
      });
      element.append(li);
    }
    return element;
  },

  table({ aligns, rows: [head, ...rows] }) {
    const row = (tag, cellsOfRow) =>
      h(
        "tr",
        {},
        ...head.map((_, i) => fill(h(tag, { class: aligns[i] ?? null }), [cellsOfRow[i] ?? { text: "", at: 0 }])),
      );
    return h(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": "Table" },
      h("table", {}, h("thead", {}, row("th", head)), h("tbody", {}, ...rows.map((r) => row("td", r)))),
    );
  },
};
