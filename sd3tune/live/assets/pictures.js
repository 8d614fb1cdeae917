// Pictures over steps: two behind a slider, all as a grid, and those that are being drawn.

import { ask, byId, el, empty, show } from "./dom.js";
import { imageOf } from "./feed.js";
import { size } from "./format.js";
import { change, colourOf, label, on, runs, shown, view } from "./store.js";

const chosen = { subject: null, before: null, after: null }; // null: the first, or the newest

/** What two pictures must share to be compared: the prompt's name, the size, the number. */
const subjectOf = (picture) => JSON.stringify([picture.shortname, picture.size, picture.index]);
const subjectName = (picture) => `${picture.shortname} ${size(picture.size)}${picture.index ? ` (${picture.index + 1})` : ""}`;
const momentOf = (picture) => `${picture.step}|${picture.kind === "base" ? "base" : picture.weights}`;
const momentName = (picture) => (picture.kind === "base" ? "before training" : `step ${picture.step}${picture.weights ? `, ${picture.weights}` : ""}`);

function allPictures() {
  return shown().flatMap((run) => (run.sections.pictures ?? []).map((picture) => ({ ...picture, run })));
}

const address = (picture) => imageOf(picture.run.key, picture.path, picture.changed);

function image(picture, attributes = {}) {
  return el("img", {
    src: address(picture), width: picture.size[0], height: picture.size[1], loading: "lazy", decoding: "async",
    alt: `${picture.prompt || picture.shortname}, ${momentName(picture)}`, ...attributes,
  });
}

function select(name, options, value, take) {
  return el("label", {}, `${name} `, el("select", { onchange: (event) => take(event.target.value) },
    ...options.map(([key, text]) => el("option", { value: key, selected: key === value }, text))));
}

/** When the next pictures come, from the run's settings. */
function coming() {
  const run = shown()[0], settings = run?.sections.about?.settings ?? {};
  if (run && ["finished", "stopped", "failed"].includes(run.sections.about?.state)) return "This run drew no pictures. `validation_prompt` sets what is drawn.";
  const every = settings.validation_step_interval;
  return every ? `The first pictures come at step ${every}.` : "The first pictures come at the end of training. `validation_step_interval` draws them on the way.";
}

function drawComparison() {
  const all = allPictures();
  if (!all.length) {
    show(byId("picture-controls"));
    show(byId("comparison"), empty(coming()));
    return;
  }
  const subjects = new Map(all.map((picture) => [subjectOf(picture), subjectName(picture)]));
  const subject = subjects.has(chosen.subject) ? chosen.subject : subjectOf(all[0]);
  const several = runs.size > 1;
  const moments = all.filter((picture) => subjectOf(picture) === subject)
    .map((picture) => ({ key: `${picture.run.key}|${momentOf(picture)}`, name: several ? `${label(picture.run)}, ${momentName(picture)}` : momentName(picture), picture }));
  const pick = (key, fallback) => moments.find((moment) => moment.key === key) ?? fallback;
  const last = moments[moments.length - 1];
  const newestOfFirst = moments.filter((moment) => moment.picture.run === moments[0].picture.run).at(-1);
  const before = pick(chosen.before, newestOfFirst === last ? moments[0] : newestOfFirst), after = pick(chosen.after, last);
  const options = moments.map(({ key, name }) => [key, name]);
  const choose = (name) => (value) => { chosen[name] = value; change("compare"); };
  show(byId("picture-controls"),
    select("Prompt", [...subjects], subject, choose("subject")),
    ...(moments.length > 1 ? [select("Left", options, before.key, choose("before")), select("Right", options, after.key, choose("after"))] : []));
  const single = moments.length === 1;
  show(byId("comparison"), el("div", { class: "compare" },
    single ? el("div", { class: "single" }, image(after.picture, { loading: "eager" })) : slider(before, after),
    el("div", { class: "caption" },
      el("p", { class: "prompt" }, after.picture.prompt || after.picture.shortname),
      single ? el("p", { class: "quiet" }, `${after.name}. A slider compares it with the next pictures.`)
        : el("p", { class: "quiet" }, `Left: ${before.name}. Right: ${after.name}. Drag the line, or focus it and use the arrow keys.`),
      facts(after.picture))));
}

function slider(before, after) {
  const element = el("img-comparison-slider", {
    class: "rendered", role: "slider", tabindex: 0, "aria-label": `${before.name} on the left, ${after.name} on the right`,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 50, style: { "aspect-ratio": after.picture.size.join(" / ") },
  }, image(before.picture, { slot: "first", loading: "eager" }), image(after.picture, { slot: "second", loading: "eager" }),
  el("span", { slot: "handle", class: "handle", "aria-hidden": "true" }, "‹ ›"));
  const tell = () => element.setAttribute("aria-valuenow", Math.round(element.value));
  element.addEventListener("slide", tell);
  element.addEventListener("keydown", (event) => {
    const ends = { Home: 0, End: 100 };
    if (!(event.key in ends)) return;
    element.value = ends[event.key];
    tell();
    event.preventDefault();
  });
  return element;
}

function facts(picture) {
  const pairs = [["seed", picture.seed], ["sampling steps", picture.sampling_steps], ["guidance", picture.guidance], ["size", size(picture.size)]];
  return el("ul", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => el("li", {}, `${name} ${value}`)));
}

/** One table a run: a row for each prompt, a column for each step. */
function drawGrid() {
  show(byId("grid"), ...shown().map((run) => table(run)));
}

function table(run) {
  const pictures = (run.sections.pictures ?? []).map((picture) => ({ ...picture, run }));
  if (!pictures.length) return null;
  const columns = [...new Map(pictures.map((picture) => [momentOf(picture), momentName(picture)]))];
  const rows = new Map();
  for (const picture of pictures) {
    const key = subjectOf(picture);
    if (!rows.has(key)) rows.set(key, { name: subjectName(picture), prompt: picture.prompt, cells: new Map() });
    rows.get(key).cells.set(momentOf(picture), picture);
  }
  const head = runs.size > 1 ? [el("i", { class: "dot", style: { background: colourOf(run.key) } }), label(run)] : ["Every prompt over the steps"];
  return el("div", { class: "sheet" }, el("h3", {}, ...head),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Pictures of ${label(run)}` }, el("table", { class: "pictures" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Prompt"), ...columns.map(([, name]) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...[...rows.values()].map((row) => el("tr", {},
        el("th", { scope: "row" }, el("span", {}, row.name), row.prompt && row.prompt !== row.name ? el("small", { title: row.prompt }, row.prompt) : null),
        ...columns.map(([key]) => cell(row.cells.get(key), [...row.cells.values()]))))))));
}

function cell(picture, row) {
  if (!picture) return el("td", { class: "none" }, "—");
  return el("td", {}, el("button", {
    type: "button", class: "thumb", "aria-label": `Enlarge: ${picture.shortname}, ${momentName(picture)}`,
    onclick: () => enlarge(row, row.indexOf(picture)),
  }, image(picture)));
}

/** A picture in a dialog; arrow keys go through the steps. */
function enlarge(row, at) {
  const dialog = byId("picture"), picture = row[at];
  const go = (by) => { if (row[at + by]) enlarge(row, at + by); };
  dialog.onkeydown = (event) => { if (event.key === "ArrowLeft") go(-1); else if (event.key === "ArrowRight") go(1); };
  if (dialog.open) dialog.close();
  ask(dialog, `${subjectName(picture)}, ${momentName(picture)}`,
    [el("div", { class: "frame" }, image(picture, { loading: "eager" })), el("p", { class: "prompt" }, picture.prompt), facts(picture)],
    el("button", { type: "button", disabled: !at, onclick: () => go(-1) }, "← earlier"),
    el("button", { type: "button", disabled: at === row.length - 1, onclick: () => go(1) }, "later →"));
}

function drawPreviews() {
  const all = shown().flatMap((run) => (run.sections.previews ?? []).map((each) => ({ ...each, run })));
  if (!all.length) return show(byId("previews"));
  show(byId("previews"), el("div", { class: "sheet" }, el("h3", {}, `Being drawn at step ${all[0].step}`),
    el("div", { class: "previews" }, ...all.map((preview) => el("figure", {},
      el("img", { src: imageOf(preview.run.key, preview.path, preview.step * 1000 + preview.sampling_step), width: preview.size?.[0] ?? 128, height: preview.size?.[1] ?? 128, alt: `Preview of ${preview.prompt}` }),
      el("figcaption", {}, `${preview.shortname}, ${preview.sampling_step} of ${preview.sampling_steps}`))))));
}

function drawSheets() {
  const all = shown().flatMap((run) => (run.sections.sheets ?? []).map((sheet) => ({ ...sheet, run })));
  if (!all.length) return show(byId("sheets"));
  show(byId("sheets"), el("details", { class: "sheet" }, el("summary", {}, `${all.length} ${all.length === 1 ? "sheet" : "sheets"} that the run wrote`),
    ...all.map((sheet) => el("figure", {}, el("img", { src: address(sheet), loading: "lazy", alt: sheet.path }), el("figcaption", {}, sheet.path)))));
}

export function startPictures() {
  on("pictures about runs view compare", drawComparison);
  on("pictures about runs view", drawGrid);
  on("previews pictures runs view", drawPreviews);
  on("sheets runs view", drawSheets);
}
