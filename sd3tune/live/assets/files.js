// The log, and checkpoints and results to download.

import { byId, el, empty, show } from "./dom.js";
import { fileOf, isExported, zipOf } from "./feed.js";
import { bytes, clock } from "./format.js";
import { detail, on } from "./store.js";

function drawLog() {
  const body = byId("log-body"), lines = detail()?.sections.log ?? [];
  if (!lines.length) return show(body, empty("Warnings, checkpoints and evaluations of the run appear here."));
  const list = body.querySelector(".lines");
  const atEnd = !list || list.scrollTop + list.clientHeight >= list.scrollHeight - 8;
  const top = list?.scrollTop ?? 0;
  show(body, el("ol", { class: "lines", tabindex: 0, "aria-label": "Log" }, ...lines.map((line) => el("li", { class: line.level },
    el("time", {}, clock(line.time)), el("span", { class: "step" }, `step ${line.step}`),
    el("span", { class: "text" }, line.level === "info" ? "" : `${line.level}: `, line.text)))));
  const fresh = body.querySelector(".lines");
  fresh.scrollTop = atEnd ? fresh.scrollHeight : top;
}

function link(address, text) {
  return isExported ? el("span", {}, text) : el("a", { href: address, download: true }, text);
}

function drawCheckpoints() {
  const run = detail(), body = byId("checkpoints-body");
  const saved = run?.sections.checkpoints ?? [], results = run?.sections.results ?? [];
  if (!saved.length && !results.length) {
    const every = run?.sections.about?.settings?.checkpoint_step_interval;
    return show(body, empty(every ? `The first checkpoint comes at step ${every}.` : "The first checkpoint comes at the end of training."));
  }
  show(body,
    isExported ? el("p", { class: "quiet" }, "The files stay with the run; this page only lists them.") : null,
    results.length ? el("div", { class: "checkpoint" }, el("h3", {}, "Result"), files(run, results, "")) : null,
    ...[...saved].reverse().map((each) => el("details", { class: "checkpoint" },
      el("summary", {}, el("b", {}, each.name), el("span", { class: "quiet" }, ` ${bytes(each.size_bytes)} · ${clock(each.changed)} `),
        isExported ? null : el("a", { href: zipOf(run.key, each.name), download: true, "aria-label": `Download ${each.name} as zip` }, "zip")),
      files(run, each.files, `${each.name}/`))));
}

function files(run, list, folder) {
  return el("ul", { class: "files" }, ...list.map((file) => el("li", {}, link(fileOf(run.key, folder + file.name), file.name), el("span", { class: "quiet" }, ` ${bytes(file.size_bytes)}`))));
}

export function startFiles() {
  on("log runs view", drawLog);
  on("checkpoints results about runs view", drawCheckpoints);
  drawLog();
}
