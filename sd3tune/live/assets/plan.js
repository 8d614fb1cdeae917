// The plan: what was decided, by whom and why, and how the shown runs differ.

import { byId, el, empty, show } from "./dom.js";
import { bytes } from "./format.js";
import { change, colourOf, detail, label, on, shown, view } from "./store.js";

const SOURCES = { user: "you", default: "default", auto: "chosen" };
const filter = { source: "all" };

const text = (value) => (value === null || value === undefined ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** The choice of the run whose plan, log and checkpoints are shown; only where there are several. */
export function runChoice() {
  if (shown().length < 2) return null;
  return el("label", {}, "Run ", el("select", { onchange: (event) => { view.detail = event.target.value; change("view"); } },
    ...shown().map((run) => el("option", { value: run.key, selected: run.key === view.detail }, label(run)))));
}

function drawPlan() {
  const rows = detail()?.sections.plan?.decisions ?? [];
  show(byId("plan-controls"), runChoice(), rows.length ? el("label", {}, "Show ", el("select", { onchange: (event) => { filter.source = event.target.value; change("plan"); } },
    ...[["all", "everything"], ["user", "what you set"], ["auto", "what was chosen"], ["default", "defaults"]]
      .map(([key, name]) => el("option", { value: key, selected: key === filter.source }, name)))) : null);
  if (!rows.length) return show(byId("plan-body"), empty("The plan comes with the start of training, or with the first checkpoint."));
  const kept = rows.filter((row) => filter.source === "all" || row.source === filter.source);
  const plan = detail().sections.plan;
  show(byId("plan-body"), differences(),
    ...(plan.warnings ?? []).map((each) => el("p", { class: "warning" }, text(each))),
    plan.memory?.training_bytes ? el("p", { class: "quiet" }, `Planned memory: ${bytes(plan.memory.training_bytes)} for training`,
      plan.memory.available_bytes ? ` of ${bytes(plan.memory.available_bytes)}` : "", ".") : null,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Decisions of the plan" }, el("table", { class: "plan" },
      el("thead", {}, el("tr", {}, ...["Decision", "Value", "By", "Reason"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, ...kept.map(row)))));
}

function row(decision) {
  const rejected = Array.isArray(decision.rejected) ? decision.rejected : [];
  const from = decision.file ? `${decision.file}, ${decision.key}` : "";
  return el("tr", {}, el("th", { scope: "row" }, text(decision.name)), el("td", { class: "value" }, text(decision.value)),
    el("td", {}, el("span", { class: `by ${SOURCES[decision.source] ? decision.source : ""}`, title: from }, SOURCES[decision.source] ?? text(decision.source))),
    el("td", {}, text(decision.reason), rejected.length ? el("details", {}, el("summary", {}, `${rejected.length} not taken`),
      el("ul", {}, ...rejected.map((each) => el("li", {}, el("b", {}, text(each?.name)), `: ${(Array.isArray(each?.reasons) ? each.reasons : []).map(text).join("; ")}`)))) : null));
}

/** Decisions in which the shown runs differ. */
function differences() {
  const all = shown().filter((run) => run.sections.plan?.decisions?.length);
  if (all.length < 2) return null;
  const valueOf = (run, name) => text(run.sections.plan.decisions.find((each) => each.name === name)?.value);
  const names = [...new Set(all.flatMap((run) => run.sections.plan.decisions.map((each) => each.name)))];
  const differ = names.filter((name) => new Set(all.map((run) => valueOf(run, name))).size > 1);
  return el("div", { class: "sheet" }, el("h3", {}, "Where the runs differ"),
    differ.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences" }, el("table", { class: "plan" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Decision"), ...all.map((run) => el("th", { scope: "col" }, el("i", { class: "dot", style: { background: colourOf(run.key) } }), label(run))))),
      el("tbody", {}, ...differ.map((name) => el("tr", {}, el("th", { scope: "row" }, name), ...all.map((run) => el("td", { class: "value" }, valueOf(run, name)))))))) : el("p", { class: "quiet" }, "Their plans decide the same."));
}

export function startPlan() {
  on("plan runs view about", drawPlan);
}
