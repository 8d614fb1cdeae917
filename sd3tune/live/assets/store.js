// The runs and what the user chose to see. Parts of the page register what they draw; whatever
// changes is drawn once in the next frame.

import { Columns } from "./series.js";

export const runs = new Map(); // key -> { key, sections, columns }
export const view = { hidden: new Set(), detail: null, window: 30, logarithmic: false, range: null, last: 0 };

const parts = new Map(); // topic -> functions that draw
const changed = new Set();
let scheduled = false;

/**
 * Calls `draw` whenever one of the topics changes: a section's name, "curves", "runs" (one more),
 * "view" (which runs, how smooth), "range" (the steps that the charts show), "theme".
 */
export function on(topics, draw) {
  for (const topic of topics.split(" ")) {
    if (!parts.has(topic)) parts.set(topic, new Set());
    parts.get(topic).add(draw);
  }
}

export function change(topic) {
  changed.add(topic);
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    const due = new Set();
    for (const each of changed) for (const draw of parts.get(each) ?? []) due.add(draw);
    changed.clear();
    for (const draw of due) draw();
  });
}

/** The run of that key, made when its first message comes. */
function run(key) {
  if (!runs.has(key)) {
    runs.set(key, { key, sections: {}, columns: new Columns() });
    view.detail ??= key;
    change("runs");
  }
  return runs.get(key);
}

/** One JSON value of a run. */
export function takeSection({ run: key, name, value }) {
  run(key).sections[name] = value;
  change(name);
}

/** A block of rows of a run. */
export function takeCurves(block) {
  run(block.run).columns.take(block);
  change("curves");
}

export const shown = () => [...runs.values()].filter((each) => !view.hidden.has(each.key));
export const detail = () => runs.get(view.detail) ?? null;

/** Colours of runs, told apart by people who do not see red and green as different. */
export const COLOURS = 8;
export const colourOf = (key) => `var(--run-${Number(key) % COLOURS})`;
export const nameOf = (each) => each.sections.about?.name ?? "run";

/** Names, with the folder where two runs have the same. */
export function label(each) {
  const name = nameOf(each);
  const twice = [...runs.values()].filter((other) => nameOf(other) === name).length > 1;
  return twice ? `${name} (${each.sections.about?.folder ?? each.key})` : name;
}

export function remember(name, value) {
  try { localStorage.setItem(`sd3tune-${name}`, value); } catch { /* it is forgotten at the end */ }
}
export function remembered(name) {
  try { return localStorage.getItem(`sd3tune-${name}`); } catch { return null; }
}
