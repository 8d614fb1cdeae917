// Starts the parts of the page, and what the keyboard does.

import { resetZoom, smoother, startCharts } from "./charts.js";
import { ask, byId, el } from "./dom.js";
import { start } from "./feed.js";
import { startFiles } from "./files.js";
import { startOverview, toggle } from "./overview.js";
import { startPictures } from "./pictures.js";
import { startPlan } from "./plan.js";
import { change, remember } from "./store.js";

const SHORTCUTS = [
  ["?", "this list"], ["t", "light or dark"], ["[ and ]", "less and more smoothing"], ["l", "logarithmic loss"],
  ["r", "reset the zoom"], ["1 … 9", "show or hide a run"], ["c, p, d, o", "go to curves, pictures, plan, log"],
  ["← →  + −", "on a chart: move, zoom"], ["← → Home End", "on the slider: move the line"],
  ["drag, double-click", "on a chart: zoom, reset"], ["Ctrl and wheel", "on a chart: zoom"],
];
const ACTIONS = {
  "?": showShortcuts,
  t: switchTheme,
  "[": () => smoother(-1),
  "]": () => smoother(1),
  l: () => byId("logarithmic").click(),
  r: resetZoom,
  c: () => go("curves"),
  p: () => go("pictures"),
  d: () => go("plan"),
  o: () => go("log"),
};

function go(id) {
  byId(id).scrollIntoView();
}

function showShortcuts() {
  if (byId("shortcuts").open) return;
  ask(byId("shortcuts"), "Keyboard", [el("dl", { class: "keys" }, ...SHORTCUTS.flatMap(([keys, what]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, what)]))]);
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  remember("theme", root.dataset.theme);
  change("theme");
}

function pressed(event) {
  // A dialog just closed keeps the focus until the next frame: keys are the page's again at once.
  const typing = event.target.closest?.("input[type=password], select, dialog[open]");
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const act = /^[1-9]$/.test(event.key) ? () => toggle(String(Number(event.key) - 1)) : ACTIONS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

byId("theme").addEventListener("click", switchTheme);
byId("help").addEventListener("click", showShortcuts);
document.addEventListener("keydown", pressed);
startOverview();
startCharts();
startPictures();
startPlan();
startFiles();
start();
