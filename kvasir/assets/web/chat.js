// The chat page: the list of chats, the thread, the composer, and what can be done with a message.

import { get } from "./api.js";
import { ChatStore, newChat, titleOf } from "./chats.js";
import { $, h, say } from "./dom.js";
import { Generation, toMessages } from "./generation.js";
import { icon } from "./icons.js";
import { AnswerView, toolResultView, userView } from "./message.js";
import { hideTip, watchTokens } from "./tokens.js";

const EXAMPLES = {
  "kvasir-demo": [
    "What is the capital of Norway?",
    "Reverse the word lantern.",
    "Count from 1 to 30.",
    "How do I start the server?",
  ],
  default: [
    "Explain a paged KV cache to a librarian.",
    "Write a haiku about mead.",
    "Make a table of the planets and their moons.",
    "A regular expression for dates like 2026-11-24.",
  ],
};

const FRAME_SHARE = 4; // drawing may take one part in so many of the time

export class Chat {
  #store = new ChatStore();
  #chats = [];
  #chat = newChat();
  #views = new Map(); // message -> view, of the chat on the screen
  #bodies = new WeakMap(); // answer's element -> message
  #running = new Map(); // chat -> Generation
  #follow = true;
  #drawAt = 0;
  #model = null;

  constructor(settings) {
    this.settings = settings;
    this.actions = {
      busy: () => this.#running.has(this.#chat),
      isLast: (message) => this.#chat.messages.at(-1) === message,
      again: (message) => this.#again(message),
      edit: (message, content) => this.#edit(message, content),
      answerCalls: (message, results) => this.#answerCalls(message, results),
    };
    this.#wire();
  }

  async start() {
    await this.#store.open();
    this.#chats = await this.#store.all();
    if (this.#chats.length && !this.#chat.messages.length) this.#chat = this.#chats[0];
    this.#draw();
  }

  /** Asks what the server has; the first model is the one talked to. */
  async loadModels() {
    const { data } = await get("v1/models");
    const names = data.filter((m) => m.parent || m.root === m.id).map((m) => m.id); // without a model's other names
    this.#model = names.includes(this.#model) ? this.#model : names[0];
    const select = h("select", { "aria-label": "Model" }, ...names.map((name) => h("option", { value: name }, name)));
    select.addEventListener("change", () => (this.#model = select.value));
    $("model").replaceChildren(
      names.length > 1 ? select : h("span", { title: "The model this server runs" }, names[0] ?? ""),
    );
    if (!this.#chat.messages.length) this.#draw();
  }

  // ---- wiring

  #wire() {
    const prompt = $("prompt");
    $("send").append(icon("up"));
    $("stop").append(icon("stop"));
    $("to-end").append(icon("down"));
    $("composer").addEventListener("submit", (event) => (event.preventDefault(), this.#send()));
    $("stop").addEventListener("click", () => this.#stop());
    $("to-end").addEventListener("click", () => this.#toEnd());
    prompt.addEventListener("input", () => this.#sizePrompt());
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) (event.preventDefault(), this.#send());
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && !document.querySelector("dialog[open]")) {
        hideTip();
        this.#stop();
      }
    });
    window.addEventListener("pagehide", () => [...this.#running.keys()].forEach((chat) => this.#save(chat)));
    const thread = $("thread");
    thread.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    watchTokens(thread, (body) => this.#bodies.get(body));
  }

  #sizePrompt() {
    const prompt = $("prompt");
    prompt.style.height = "auto";
    prompt.style.height = `${Math.min(prompt.scrollHeight, innerHeight * 0.4)}px`;
    this.#drawButtons();
  }

  #noteScroll() {
    const thread = $("thread");
    this.#follow = thread.scrollHeight - thread.scrollTop - thread.clientHeight < 60;
    $("to-end").hidden = this.#follow;
  }

  #toEnd() {
    this.#follow = true;
    $("thread").scrollTop = $("thread").scrollHeight;
  }

  // ---- what people do

  #send() {
    const content = $("prompt").value.trim();
    if (!content || this.actions.busy()) return;
    $("prompt").value = "";
    this.#sizePrompt();
    this.#ask(content);
  }

  #ask(content) {
    this.#chat.messages.push({ role: "user", content });
    this.#chat.title ||= content.replace(/\s+/g, " ").slice(0, 80);
    this.#generate();
  }

  #stop() {
    this.#running.get(this.#chat)?.stop();
  }

  #cut(message) {
    this.#chat.messages.length = this.#chat.messages.indexOf(message);
  }

  #again(message) {
    if (this.actions.busy()) return;
    this.#cut(message);
    this.#generate();
  }

  #edit(message, content) {
    if (this.actions.busy()) return;
    this.#cut(message);
    this.#ask(content);
  }

  #answerCalls(message, results) {
    message.calls.forEach((call, i) =>
      this.#chat.messages.push({ role: "tool", tool_call_id: call.id, content: results[i] }),
    );
    this.#generate();
  }

  async #generate() {
    const chat = this.#chat;
    const messages = toMessages(chat.messages, this.settings.system);
    const message = { role: "assistant", content: "" };
    const request = { model: this.#model ?? undefined, messages, ...this.settings.fields() };
    const generation = new Generation(message, request, () => this.#changed(message));
    chat.messages.push(message);
    chat.updated = Date.now();
    this.#running.set(chat, generation);
    if (!this.#chats.includes(chat)) this.#chats.unshift(chat);
    this.#follow = true;
    this.#draw();
    this.#save(chat);
    await generation.run();
    this.#running.delete(chat);
    chat.updated = Date.now();
    this.#save(chat);
    if (chat === this.#chat) this.#updateAll();
    this.#drawList();
    say(message.error ? `Error: ${message.error}` : "The answer is complete.");
  }

  #save(chat) {
    this.#store.save({ ...chat, messages: chat.messages.map(({ running, ...kept }) => kept) });
  }

  #open(chat) {
    this.#chat = chat;
    this.#follow = true;
    hideTip();
    this.#draw();
    if (matchMedia("(hover: hover)").matches) $("prompt").focus();
  }

  async #remove(chat) {
    this.#running.get(chat)?.stop();
    this.#chats = this.#chats.filter((c) => c !== chat);
    await this.#store.remove(chat);
    if (chat === this.#chat) this.#open(this.#chats[0] ?? newChat());
    else this.#drawList();
  }

  // ---- drawing

  /** A message grew. Draws with the next frame, or later where drawing is slow. */
  #changed(message) {
    const view = this.#views.get(message);
    if (!view || view.due) return;
    view.due = true;
    const draw = () => {
      view.due = false;
      const begun = performance.now();
      view.update();
      if (this.#follow) this.#toEnd();
      this.#drawAt = performance.now() + (performance.now() - begun) * FRAME_SHARE;
    };
    setTimeout(() => requestAnimationFrame(draw), Math.max(0, this.#drawAt - performance.now()));
  }

  #draw() {
    this.#views.clear();
    const { messages } = this.#chat;
    const elements = messages.map((message) => {
      const view = this.#viewOf(message);
      this.#views.set(message, view);
      if (view.body) this.#bodies.set(view.body, message);
      return view.element;
    });
    $("messages").replaceChildren(...(elements.length ? elements : [this.#welcome()]));
    this.#updateAll();
    this.#drawList();
    this.#sizePrompt();
    if (this.#follow) this.#toEnd();
  }

  #viewOf(message) {
    if (message.role === "user") return userView(message, this.actions);
    return message.role === "tool" ? toolResultView(message) : new AnswerView(message, this.actions);
  }

  #updateAll() {
    for (const view of this.#views.values()) view.update();
    this.#drawButtons();
    if (this.#follow) this.#toEnd();
  }

  #drawButtons() {
    const busy = this.actions.busy();
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    $("send").disabled = !$("prompt").value.trim();
  }

  #welcome() {
    const examples = EXAMPLES[this.#model] ?? EXAMPLES.default;
    return h(
      "div",
      { class: "welcome" },
      h("img", { src: "web/icon.svg", alt: "", width: 56, height: 56 }),
      h("h1", {}, "What would you like to know?"),
      h(
        "p",
        {},
        this.#model
          ? `You are talking to ${this.#model}. Nothing leaves this browser but what you send to this server.`
          : "\u00a0",
      ),
      h(
        "div",
        { class: "examples" },
        ...examples.map((text) =>
          h("button", { type: "button", class: "example", on: { click: () => this.#ask(text) } }, text),
        ),
      ),
    );
  }

  #drawList() {
    const fresh = h("button", { class: "button new-chat", type: "button" }, icon("plus"), "New chat");
    fresh.addEventListener("click", () => this.#open(newChat()));
    const rows = this.#chats.map((chat) => {
      const open = h(
        "button",
        { class: "chat-open", type: "button", "aria-current": chat === this.#chat ? "true" : null },
        titleOf(chat),
      );
      open.addEventListener("click", () => this.#open(chat));
      const remove = h(
        "button",
        { class: "tool", type: "button", "aria-label": `Delete ${titleOf(chat)}`, title: "Delete" },
        icon("trash"),
      );
      remove.addEventListener("click", () => this.#remove(chat));
      return h("li", { class: this.#running.has(chat) ? "running" : null }, open, remove);
    });
    const empty = h("p", { class: "empty" }, "Your chats are listed here. They are kept in this browser only.");
    $("chats").replaceChildren(fresh, rows.length ? h("ul", {}, ...rows) : empty);
  }
}
