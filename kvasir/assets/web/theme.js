// Runs before the first paint, so that a chosen theme does not flash. A module would run after it.
"use strict";
{
  let chosen = null;
  try {
    chosen = localStorage.getItem("kvasir.theme");
  } catch {
    // storage is off: the system's theme it is
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
