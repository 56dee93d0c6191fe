// Puts the page together: which page is shown, panels, theme, and the key dialog.

import { apiKey, onKeyRefused } from "./api.js";
import { Chat } from "./chat.js";
import { $ } from "./dom.js";
import { EnginePage } from "./engine.js";
import { icon } from "./icons.js";
import { Settings } from "./settings.js";
import { hideTip } from "./tokens.js";

const settings = new Settings();
const chat = new Chat(settings);
const engine = new EnginePage($("engine-page"));

// ---- pages

function route() {
  const page = location.hash === "#engine" ? "engine" : "chat";
  hideTip();
  for (const name of ["chat", "engine"]) $(`${name}-page`).hidden = name !== page;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.getAttribute("href") === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = page === "engine" ? "Engine · Kvasir" : "Kvasir";
  document.body.dataset.page = page;
  engine.show(page === "engine");
}

// ---- panels: beside the conversation where there is room, over it where there is none

const WIDE = { chats: matchMedia("(min-width: 840px)"), settings: matchMedia("(min-width: 1120px)") };
const panels = { chats: $("toggle-chats"), settings: $("toggle-settings") };

function openPanel(name, open, { focus = false } = {}) {
  const panel = $(name);
  panel.classList.toggle("open", open);
  panel.inert = !open;
  panels[name].setAttribute("aria-expanded", String(open));
  const over = Object.keys(panels).some((n) => $(n).classList.contains("open") && !WIDE[n].matches);
  $("shade").hidden = !over;
  if (open && focus) panel.querySelector("button, input, textarea")?.focus();
  if (!open && focus) panels[name].focus();
}

function closeOverlays() {
  for (const name of Object.keys(panels))
    if (!WIDE[name].matches && $(name).classList.contains("open")) openPanel(name, false, { focus: true });
}

for (const [name, button] of Object.entries(panels)) {
  button.append(icon(name === "chats" ? "menu" : "sliders"));
  button.addEventListener("click", () => {
    if (location.hash === "#engine") location.hash = "#chat";
    const open = !$(name).classList.contains("open");
    if (open && !WIDE[name].matches) closeOverlays();
    openPanel(name, open, { focus: !WIDE[name].matches });
  });
  WIDE[name].addEventListener("change", (event) => openPanel(name, event.matches));
  openPanel(name, WIDE[name].matches);
}
$("shade").addEventListener("click", closeOverlays);
$("chats").addEventListener("click", (event) => {
  if (event.target.closest(".chat-open, .new-chat")) closeOverlays();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("shade").hidden) {
    event.preventDefault();
    closeOverlays();
  }
});
const renderSettings = () => settings.render($("settings"), () => openPanel("settings", false, { focus: true }));

// ---- theme

const THEMES = ["auto", "light", "dark"];

function drawTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  $("theme").replaceChildren(icon({ auto: "auto", light: "sun", dark: "moon" }[theme]));
  $("theme").setAttribute("aria-label", `Theme: ${theme === "auto" ? "as the system has it" : theme}`);
  $("theme").title = $("theme").getAttribute("aria-label");
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    localStorage.setItem("kvasir.theme", next);
  } catch {
    // it holds until the page is closed
  }
  drawTheme();
});

// ---- the key

const dialog = $("key-dialog");
let dismissed = false;

onKeyRefused(() => {
  if (dialog.open || dismissed) return;
  $("key-error").textContent = apiKey.get() ? "The server does not know this key." : "";
  $("key-input").value = apiKey.get();
  dialog.returnValue = "";
  dialog.showModal();
});
$("key-cancel").addEventListener("click", () => {
  dismissed = true; // the settings have a field for later
  dialog.close();
});
dialog.querySelector("form").addEventListener("submit", () => {
  apiKey.set($("key-input").value.trim());
  window.dispatchEvent(new Event("kvasir-key"));
});
window.addEventListener("kvasir-key", () => {
  dismissed = false;
  if (document.activeElement?.id !== "set-key") renderSettings();
  loadModels();
});

async function loadModels() {
  try {
    await chat.loadModels();
  } catch (error) {
    $("model").textContent = error.status === 401 ? "no key" : "not connected";
  }
}

drawTheme();
renderSettings();
window.addEventListener("hashchange", route);
route();
await chat.start();
await loadModels();
