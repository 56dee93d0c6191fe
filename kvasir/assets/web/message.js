// What one message looks like. A view is made once and updated as its message grows.

import { copyButton, count, duration, figure, h } from "./dom.js";
import { icon } from "./icons.js";
import { Markdown } from "./markdown.js";
import { hideTip, tokenView } from "./tokens.js";

const MIN_FOR_RATE = 8; // a rate over fewer tokens says nothing

/** What the page can do with a message; see chat.js. */
export function userView(message, actions) {
  const text = h("div", { class: "bubble" }, message.content);
  const edit = tool("edit", "Edit", () => article.replaceChildren(editor(message, actions, article, parts)));
  const parts = [
    text,
    h(
      "div",
      { class: "tools" },
      copyButton(() => message.content, icon),
      edit,
    ),
  ];
  const article = h("article", { class: "message user", "aria-label": "You" }, ...parts);
  return { element: article, update: () => (edit.disabled = actions.busy()) };
}

function tool(name, label, click) {
  return h("button", { class: "tool", type: "button", "aria-label": label, title: label, on: { click } }, icon(name));
}

function editor(message, actions, article, parts) {
  const area = h("textarea", { value: message.content, rows: 3, "aria-label": "Edit your message" });
  const cancel = () => article.replaceChildren(...parts);
  const send = () => area.value.trim() && actions.edit(message, area.value.trim());
  const form = h(
    "form",
    { class: "editor" },
    area,
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { class: "button", type: "button", on: { click: cancel } }, "Cancel"),
      h("button", { class: "button primary", type: "submit" }, "Send"),
    ),
  );
  form.addEventListener("submit", (event) => (event.preventDefault(), send()));
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") cancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), send());
  });
  requestAnimationFrame(() => area.focus());
  return form;
}

export function toolResultView(message) {
  return {
    element: h(
      "article",
      { class: "message tool-result", "aria-label": "Tool result" },
      h(
        "details",
        {},
        h("summary", {}, icon("tool"), "Result given to the tool call"),
        h("pre", {}, pretty(message.content)),
      ),
    ),
    update() {},
  };
}

/** Indents JSON; leaves everything else alone. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

export class AnswerView {
  #showsTokens = false;
  #calls = [];

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.body = h("div", { class: "answer-body markdown" });
    this.markdown = new Markdown(this.body);
    this.reasoningText = h("div", { class: "reasoning-text" });
    this.reasoningLabel = h("span");
    this.reasoning = h(
      "details",
      { class: "reasoning", hidden: true },
      h("summary", {}, icon("thought"), this.reasoningLabel),
      this.reasoningText,
    );
    this.calls = h("div", { class: "calls" });
    this.error = h("div", { class: "error", role: "alert", hidden: true });
    this.waiting = h(
      "div",
      { class: "waiting", role: "status", "aria-label": "Waiting for the first token" },
      h("i"),
      h("i"),
      h("i"),
    );
    this.figures = h("span", { class: "figures" });
    this.again = tool("again", "Answer again", () => actions.again(message));
    this.tokens = tool("tokens", "Show tokens", () => this.#toggleTokens());
    this.tokens.setAttribute("aria-pressed", "false");
    this.copy = copyButton(() => message.content, icon);
    this.tools = h("div", { class: "tools" }, this.copy, this.again, this.tokens, this.figures);
    this.element = h(
      "article",
      { class: "message answer", "aria-label": "Answer" },
      this.reasoning,
      this.body,
      this.calls,
      this.error,
      this.waiting,
      this.tools,
    );
    this.update();
  }

  update() {
    const { message } = this;
    if (!this.#showsTokens) this.markdown.update(message.content);
    this.#updateReasoning();
    this.#updateCalls();
    const begun = message.content || message.reasoning || message.calls?.length;
    this.waiting.hidden = !message.running || Boolean(begun);
    this.element.classList.toggle("running", Boolean(message.running));
    this.element.setAttribute("aria-busy", String(Boolean(message.running)));
    this.error.hidden = !message.error;
    this.error.textContent = message.error ?? "";
    this.copy.hidden = !message.content;
    this.again.hidden = Boolean(message.running);
    this.again.disabled = this.actions.busy();
    this.tokens.hidden = Boolean(message.running) || !message.tokens?.length;
    this.figures.textContent = figuresOf(message).join(" · ");
  }

  #updateReasoning() {
    const { reasoning, running, content, timing } = this.message;
    this.reasoning.hidden = !reasoning;
    if (!reasoning) return;
    const thinking = running && !content;
    const seconds = timing?.thought_s ?? (thinking ? undefined : timing?.total_s);
    this.reasoningLabel.textContent = thinking
      ? "Thinking…"
      : seconds
        ? `Thought for ${duration(seconds)}`
        : "Thoughts";
    if (this.reasoningText.textContent !== reasoning) this.reasoningText.textContent = reasoning.trim();
  }

  #updateCalls() {
    const { calls = [], running } = this.message;
    if (!running && calls.length && !this.results && this.actions.isLast(this.message)) {
      this.results = new ResultForm(calls, (results) => this.actions.answerCalls(this.message, results));
    }
    calls.forEach((call, i) => {
      if (!this.#calls[i]) {
        this.#calls[i] = { name: h("code"), args: h("pre") };
        const { name, args } = this.#calls[i];
        this.calls.append(
          h(
            "section",
            { class: "call", "aria-label": "Tool call" },
            h("header", {}, icon("tool"), "Calls ", name),
            args,
          ),
        );
      }
      this.#calls[i].name.textContent = call.name;
      this.#calls[i].args.textContent = pretty(call.arguments);
    });
    if (this.results && !this.results.element.isConnected) this.calls.append(this.results.element);
  }

  #toggleTokens() {
    this.#showsTokens = !this.#showsTokens;
    hideTip();
    this.tokens.setAttribute("aria-pressed", String(this.#showsTokens));
    this.body.hidden = this.#showsTokens;
    this.view?.remove();
    this.view = this.#showsTokens ? tokenView(this.message) : null;
    if (this.view) this.body.after(this.view);
    else this.update();
  }
}

/** Where a person says what the tools returned. */
class ResultForm {
  constructor(calls, send) {
    const areas = calls.map((call) =>
      h("textarea", {
        class: "mono",
        rows: 2,
        placeholder: '{"temperature": 3, "sky": "rainy"}',
        "aria-label": `Result of ${call.name}`,
      }),
    );
    this.element = h(
      "form",
      { class: "results" },
      ...calls.flatMap((call, i) => [h("label", {}, h("span", {}, "Result of ", h("code", {}, call.name)), areas[i])]),
      h("button", { class: "button primary", type: "submit" }, calls.length > 1 ? "Send results" : "Send result"),
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.element.remove();
      send(areas.map((area) => area.value));
    });
  }
}

function figuresOf({ usage, timing, finish, running, tokens, error }) {
  const figures = [];
  const made = usage?.completion_tokens ?? tokens?.length;
  if (made) figures.push(`${count(made)} token${made === 1 ? "" : "s"}`);
  const seconds = timing ? timing.total_s - timing.first_s : 0;
  if (made >= MIN_FOR_RATE && seconds > 0) figures.push(`${figure((made - 1) / seconds)} tok/s`);
  if (timing && !running) figures.push(`first after ${duration(timing.first_s)}`);
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (usage && !running)
    figures.push(`prompt ${count(usage.prompt_tokens)}${cached ? ` (${count(cached)} cached)` : ""}`);
  if (finish === "length") figures.push("cut at its longest");
  if (finish === "stopped") figures.push("stopped");
  if (!finish && !running && !error) figures.push("not complete"); // the page was closed while it was written
  return figures;
}
