// Sampling controls. An empty field is not sent, so the server's own default holds.

import { apiKey } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";

const STORED = "kvasir.settings";

const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.1, hint: "0 takes the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.05, hint: "share of probability kept" },
  { name: "top_k", label: "Top k", min: 0, step: 1, hint: "tokens kept; 0 keeps all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.05, hint: "least share of the best one's" },
  { name: "max_tokens", label: "Max tokens", min: 1, step: 1, hint: "length of an answer" },
  { name: "seed", label: "Seed", step: 1, hint: "the same seed, the same answer" },
];

const EXAMPLE_TOOLS = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather in a city",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    },
  ],
  null,
  2,
);

const NOTHING = {
  system: "",
  temperature: "",
  top_p: "",
  top_k: "",
  min_p: "",
  max_tokens: "",
  seed: "",
  tools: "",
  logprobs: true,
};

export class Settings {
  #values = { ...NOTHING };

  constructor() {
    try {
      const stored = JSON.parse(localStorage.getItem(STORED) ?? "{}");
      for (const [name, value] of Object.entries(stored))
        if (name in NOTHING && typeof value === typeof NOTHING[name]) this.#values[name] = value;
    } catch {
      // nothing stored, or nothing that can be read
    }
  }

  /** What a request is made of beyond its messages. */
  fields() {
    const fields = {};
    for (const { name } of NUMBERS) if (this.#values[name] !== "") fields[name] = Number(this.#values[name]);
    const { tools } = parseTools(this.#values.tools);
    if (tools) fields.tools = tools;
    if (this.#values.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
    return fields;
  }

  get system() {
    return this.#values.system.trim();
  }

  #set(name, value) {
    this.#values[name] = value;
    try {
      localStorage.setItem(STORED, JSON.stringify(this.#values));
    } catch {
      // storage is off or full: the values hold until the page is closed
    }
  }

  render(panel, close) {
    panel.replaceChildren(
      h(
        "div",
        { class: "panel-head" },
        h("h2", {}, "Settings"),
        h(
          "button",
          { class: "icon-button", type: "button", "aria-label": "Close settings", on: { click: close } },
          icon("cross"),
        ),
      ),
      h(
        "div",
        { class: "panel-body" },
        this.#area("system", "System prompt", "How the model should behave", 4),
        h("div", { class: "pairs" }, ...NUMBERS.map((n) => this.#number(n))),
        this.#probabilities(),
        this.#tools(),
        keyField(),
        h(
          "button",
          {
            class: "button",
            type: "button",
            on: {
              click: () => {
                for (const [name, value] of Object.entries(NOTHING)) this.#set(name, value);
                this.render(panel, close);
              },
            },
          },
          "Reset to defaults",
        ),
      ),
    );
  }

  #number({ name, label, hint, ...bounds }) {
    const error = h("span", { class: "field-error", id: `${name}-error` });
    const input = h("input", {
      id: `set-${name}`,
      type: "number",
      inputmode: "decimal",
      placeholder: "default",
      value: this.#values[name],
      "aria-describedby": `${name}-hint ${name}-error`,
      ...bounds,
    });
    const check = () => {
      const fine = input.validity.valid || input.validity.stepMismatch;
      error.textContent = fine ? "" : wrongNumber(bounds);
      input.setAttribute("aria-invalid", String(!fine));
      if (fine) this.#set(name, input.value);
    };
    input.addEventListener("input", check);
    return h(
      "div",
      { class: "field" },
      h("label", { for: input.id }, label),
      input,
      h("span", { class: "field-hint", id: `${name}-hint` }, hint),
      error,
    );
  }

  #area(name, label, placeholder, rows) {
    const area = h("textarea", { id: `set-${name}`, rows, placeholder, value: this.#values[name] });
    area.addEventListener("input", () => this.#set(name, area.value));
    return h("div", { class: "field" }, h("label", { for: area.id }, label), area);
  }

  #probabilities() {
    const box = h("input", { id: "set-logprobs", type: "checkbox", checked: this.#values.logprobs });
    box.addEventListener("change", () => this.#set("logprobs", box.checked));
    return h(
      "div",
      { class: "field check" },
      box,
      h("label", { for: "set-logprobs" }, "Token probabilities"),
      h("span", { class: "field-hint" }, "point at a word of an answer to see what else it could have been"),
    );
  }

  #tools() {
    const error = h("span", { class: "field-error", id: "tools-error", role: "alert" });
    const field = this.#area("tools", "Tools", 'JSON: [{"type": "function", "function": {…}}]', 5);
    const area = field.querySelector("textarea");
    area.classList.add("mono");
    area.spellcheck = false;
    area.setAttribute("aria-describedby", error.id);
    const check = () => {
      const { complaint } = parseTools(area.value);
      error.textContent = complaint ?? "";
      area.setAttribute("aria-invalid", String(Boolean(complaint)));
    };
    area.addEventListener("input", check);
    const example = h("button", { class: "link", type: "button" }, "Insert an example");
    example.addEventListener("click", () => {
      area.value = EXAMPLE_TOOLS;
      area.dispatchEvent(new Event("input"));
    });
    field.append(error, example);
    check();
    return field;
  }
}

function wrongNumber({ min, max }) {
  if (max !== undefined) return `A number from ${min} to ${max}.`;
  return min !== undefined ? `A number, at least ${min}.` : "A number.";
}

/** {tools} when the text is a list of tools, {complaint} when it is something else, {} when it is empty. */
function parseTools(text) {
  if (!text.trim()) return {};
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (error) {
    return { complaint: `Not JSON yet, so no tools are sent: ${error.message}` };
  }
  if (!Array.isArray(tools) || !tools.every((t) => t?.type === "function" && typeof t.function?.name === "string"))
    return { complaint: "Tools are a list of {type: function, function: {name, …}}; none are sent." };
  return tools.length ? { tools } : {};
}

function keyField() {
  const input = h("input", {
    id: "set-key",
    type: "password",
    value: apiKey.get(),
    placeholder: "none",
    autocomplete: "off",
    spellcheck: "false",
  });
  input.addEventListener("change", () => {
    apiKey.set(input.value.trim());
    window.dispatchEvent(new Event("kvasir-key"));
  });
  return h(
    "form",
    { class: "field", on: { submit: (event) => event.preventDefault() } },
    h("label", { for: "set-key" }, "API key"),
    input,
    h("span", { class: "field-hint" }, "for a server with --api-key; forgotten when this tab closes"),
  );
}
