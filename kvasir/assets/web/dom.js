// Elements from functions. Text becomes text nodes; nothing in this page ever parses markup.

/**
 * @param {string} tag
 * @param {Object} [props] `class`, `data`, `on` (event listeners), properties the element has, else attributes.
 * @param {...(Node|string|null|undefined|false)} children
 */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [event, fn] of Object.entries(value)) element.addEventListener(event, fn);
    else if (value === true) element.setAttribute(name, "");
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const $ = (id) => document.getElementById(id);

/** Says something to screen readers. */
export function say(text) {
  $("said").textContent = text;
}

/** A button that copies what `text()` returns, and shows for a moment that it did. */
export function copyButton(text, icon, label = "Copy") {
  const button = h("button", { class: "tool", type: "button", "aria-label": label, title: label }, icon("copy"));
  button.addEventListener("click", async () => {
    const done = await copy(text());
    button.replaceChildren(icon(done ? "check" : "cross"));
    say(done ? "Copied" : "Could not copy");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // plain http from another machine has no clipboard API
  }
}

function copyBySelection(text) {
  const area = h("textarea", { class: "hidden", value: text, "aria-hidden": "true" });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (n) => whole.format(Math.round(n));

/** Three digits are enough for a rate or a time. */
export const figure = (n) => (Math.abs(n) >= 1000 ? whole.format(Math.round(n)) : short.format(n));

export function duration(seconds) {
  if (seconds < 0.9995) return `${figure(seconds * 1000)} ms`;
  if (seconds < 60) return `${figure(seconds)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
