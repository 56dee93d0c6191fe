// Token probabilities: a tip over the word that is pointed at, and an answer drawn token by token.

import { $, h } from "./dom.js";
import { sourceOf } from "./inline.js";

const percent = (logprob) => {
  const p = Math.exp(logprob) * 100;
  return p >= 99.95 ? "100 %" : p >= 0.05 ? `${p.toFixed(1)} %` : "< 0.1 %";
};

/** A token as people can see it: spaces and ends of lines have signs. */
const visible = (text) => (text ? text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") : "∅");

/** Where each token begins in the text of all tokens. */
function layout(message) {
  if (message.layout?.count === message.tokens.length && message.layout.length === message.content.length)
    return message.layout;
  const starts = [];
  let text = "";
  for (const [piece] of message.tokens) {
    starts.push(text.length);
    text += piece;
  }
  const layout = {
    count: starts.length,
    length: message.content.length,
    starts,
    end: text.length,
    offset: text.indexOf(message.content),
  };
  Object.defineProperty(message, "layout", { value: layout, configurable: true }); // not enumerable: never stored
  return layout;
}

/** Index of the token that wrote message.content[at], or -1 when that cannot be told. */
function tokenAt(message, at) {
  const { starts, offset, end } = layout(message);
  const wanted = at + offset;
  if (offset < 0 || wanted >= end) return -1;
  let low = 0;
  let high = starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (starts[middle] <= wanted) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Ranges of the token's letters in a rendered answer. */
function rangesOf(message, index, body) {
  const { starts, offset, end } = layout(message);
  const from = starts[index] - offset;
  const to = (starts[index + 1] ?? end) - offset;
  const ranges = [];
  const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const at = sourceOf(node);
    if (at === undefined || at >= to || at + node.length <= from) continue;
    const range = new Range();
    range.setStart(node, Math.max(0, from - at));
    range.setEnd(node, Math.min(node.length, to - at));
    ranges.push(range);
  }
  return ranges;
}

function caretAt(x, y) {
  if (document.caretPositionFromPoint) {
    const caret = document.caretPositionFromPoint(x, y);
    return caret && [caret.offsetNode, caret.offset];
  }
  const range = document.caretRangeFromPoint?.(x, y); // Safari
  return range && [range.startContainer, range.startOffset];
}

const contains = (rect, x, y) => x >= rect.left - 1 && x <= rect.right + 1 && y >= rect.top - 2 && y <= rect.bottom + 2;

/** Watches `root`; `messageOf(element)` gives the message that a rendered answer shows. */
export function watchTokens(root, messageOf) {
  let frame = 0;
  const look = (event) => {
    const { clientX: x, clientY: y, target } = event;
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => point(x, y, target));
  };
  const point = (x, y, target) => {
    if (target.closest?.(".token-view")) return; // shows its own
    const body = target.closest?.(".answer-body");
    const message = body && messageOf(body);
    if (!message?.tokens?.length) return hideTip();
    const caret = caretAt(x, y);
    const at = caret && sourceOf(caret[0]);
    if (at === undefined) return hideTip();
    // The caret stands between two letters; the one pointed at is on either side of it.
    for (const letter of [caret[1], caret[1] - 1]) {
      if (letter < 0 || letter >= caret[0].length) continue;
      const index = tokenAt(message, at + letter);
      const ranges = index < 0 ? [] : rangesOf(message, index, body);
      const rect = ranges.flatMap((r) => [...r.getClientRects()]).find((r) => contains(r, x, y));
      if (!rect) continue;
      CSS.highlights?.set("token", new Highlight(...ranges));
      return showTip(message.tokens[index], rect);
    }
    hideTip();
  };
  root.addEventListener("pointermove", look);
  root.addEventListener("click", look);
  root.addEventListener("pointerleave", () => {
    cancelAnimationFrame(frame);
    hideTip();
  });
  root.addEventListener("scroll", hideTip, { passive: true });
}

export function hideTip() {
  $("tip").hidden = true;
  CSS.highlights?.delete("token");
}

function showTip([text, logprob, others], rect) {
  const tip = $("tip");
  const rows = others.some(([other, lp]) => other === text && lp === logprob) ? others : [[text, logprob], ...others];
  tip.replaceChildren(
    h(
      "div",
      { class: "tip-head" },
      h("span", { class: "tip-token" }, visible(text)),
      h("strong", {}, percent(logprob)),
    ),
    ...rows.map(([other, lp]) => {
      const bar = h("span", { class: "tip-bar" });
      bar.style.width = `${Math.max(1, Math.exp(lp) * 100)}%`;
      return h(
        "div",
        { class: lp === logprob ? "tip-row chosen" : "tip-row" },
        h("span", { class: "tip-token" }, visible(other)),
        h("span", { class: "tip-track" }, bar),
        h("span", { class: "tip-percent" }, percent(lp)),
      );
    }),
  );
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, rect.left + rect.width / 2 - box.width / 2), innerWidth - box.width - 8);
  const above = rect.top - box.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above >= 8 ? above : rect.bottom + 8}px`;
}

/** The answer as the model wrote it, one box a token, the unsure ones in colour. Arrow keys go from token to token. */
export function tokenView(message) {
  const boxes = message.tokens.map(([text, logprob], i) => {
    const box = h("span", { class: "token", data: { i } }, text.replaceAll("\n", "⏎\n") || "∅");
    box.style.setProperty("--doubt", (1 - Math.exp(logprob)).toFixed(3));
    return box;
  });
  const view = h(
    "div",
    { class: "token-view", tabindex: "0", role: "group", "aria-label": "Tokens; arrow keys go through them" },
    ...boxes,
  );
  let active = -1;
  const show = (i) => {
    boxes[active]?.classList.remove("active");
    active = i;
    const box = boxes[i];
    box.classList.add("active");
    box.scrollIntoView({ block: "nearest" });
    showTip(message.tokens[i], box.getClientRects()[0] ?? box.getBoundingClientRect());
    const [text, logprob] = message.tokens[i];
    $("said").textContent = `${visible(text)}, ${percent(logprob)}`;
  };
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  view.addEventListener("keydown", (event) => {
    if (!(event.key in move)) return;
    event.preventDefault();
    show(Math.min(Math.max(0, active + move[event.key]), boxes.length - 1));
  });
  view.addEventListener("pointerover", (event) => {
    if (event.target.dataset.i !== undefined) show(Number(event.target.dataset.i));
  });
  view.addEventListener("pointerleave", hideTip);
  view.addEventListener("blur", hideTip);
  return view;
}
