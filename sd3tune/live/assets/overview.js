// What each run is doing: state, progress, the newest numbers, and the button that stops it.

import { ask, byId, el, empty, show } from "./dom.js";
import { isExported, server, stopRun } from "./feed.js";
import { bytes, clock, count, duration, short, stepTime } from "./format.js";
import { change, colourOf, label, on, runs, shown, view } from "./store.js";

const STATES = {
  waiting: "waiting for the first step",
  running: "running",
  finished: "finished",
  stopped: "stopped, can be continued",
  failed: "failed",
  interrupted: "not running",
};
const stopping = new Set(); // runs that were told to stop

function tile(name, value, about = "") {
  return el("div", { class: "tile" }, el("dt", {}, name), el("dd", {}, value), el("small", {}, about));
}

function lossTile(run) {
  const smooth = run.columns.smoothed("loss", view.window);
  if (!smooth?.length) return tile("Loss", "—", "from the first step on");
  return tile("Loss", short(smooth[smooth.length - 1], 4), view.window > 1 ? `over ${view.window} steps` : "of the last step");
}

function evaluationTile(run) {
  const all = run.sections.evaluations ?? [];
  const last = all[all.length - 1];
  if (!last) return tile("Evaluation loss", "—", "none yet");
  const first = all.find((each) => each.dataset === last.dataset);
  const by = first !== last && first.loss ? `${((last.loss / first.loss - 1) * 100).toFixed(1)} % since step ${first.step}` : `at step ${last.step}`;
  return tile("Evaluation loss", short(last.loss, 4), by);
}

function memoryTiles({ hardware, state }) {
  const cards = hardware.cards ?? [];
  if (state !== "running") return [];
  if (!cards.length) {
    const memory = hardware.process_bytes;
    return [tile("Memory", memory ? bytes(memory) : "unknown", memory ? "main memory" : "not on this machine"),
      tile("Temperature", "unknown", hardware.device || "")];
  }
  return cards.flatMap((card) => [
    tile("Memory", bytes(card.used_bytes), card.total_bytes ? `of ${bytes(card.total_bytes)}, ${card.name}` : card.name),
    tile("Temperature", typeof card.temperature_celsius === "number" ? `${Math.round(card.temperature_celsius)} °C` : "unknown", card.name),
  ]);
}

function progress(about) {
  const part = about.steps ? Math.min(1, about.step / about.steps) : 0;
  const words = about.steps ? `step ${count(about.step)} of ${count(about.steps)}, ${Math.floor(part * 100)} %` : `step ${count(about.step)}`;
  return el("div", { class: "progress" },
    el("progress", { max: 1, value: part, "aria-label": "Progress" }), el("span", {}, words));
}

function stopButton(run, about) {
  if (isExported || about.state !== "running") return null;
  if (stopping.has(run.key)) return el("div", { class: "stopping" }, el("span", { class: "quiet" }, "Stopping: the step ends, then the run saves."));
  if (!about.can_stop) return null; // on another machine, or of another user
  const why = server.mayStop ? "" : "To stop the run, open the address that `sd3tune watch` printed.";
  return el("div", { class: "stopping" }, why ? el("small", {}, why) : null,
    el("button", { type: "button", class: "stop", disabled: Boolean(why), onclick: () => confirmStop(run) }, "Stop and save"));
}

function confirmStop(run) {
  const dialog = byId("confirm");
  const stop = async () => {
    const wrong = await stopRun(run.key);
    dialog.close();
    if (wrong) ask(dialog, "The run was not stopped", [el("p", {}, wrong)]);
    else { stopping.add(run.key); change("about"); }
  };
  ask(dialog, `Stop ${label(run)}?`,
    [el("p", {}, "The run finishes its step, writes a checkpoint and ends. The command that started it continues from there.")],
    el("button", { type: "button", class: "stop", onclick: stop }, "Stop and save"));
}

function card(run) {
  const about = run.sections.about;
  if (!about) return null;
  if (about.state !== "running") stopping.delete(run.key);
  const details = [about.model, about.folder, about.changed && about.state !== "running" ? `last change ${clock(about.changed)}` : ""];
  return el("article", { class: "card run" },
    el("div", { class: "title" },
      el("h1", {}, el("i", { class: "dot", style: { background: colourOf(run.key) } }), label(run)),
      el("span", { class: `state ${about.state}` }, STATES[about.state] ?? about.state),
      stopButton(run, about)),
    el("p", { class: "details" }, details.filter(Boolean).join(" · ")),
    about.reason ? el("p", { class: about.state === "failed" ? "reason failed" : "reason" }, about.state === "stopped" ? `Reason: ${about.reason}` : about.reason) : null,
    progress(about),
    el("dl", { class: "tiles" },
      lossTile(run), evaluationTile(run),
      tile("Learning rate", run.columns.length ? short(run.columns.last("learning_rate")) : "—"),
      tile("Step time", about.seconds_per_step ? stepTime(about.seconds_per_step) : "—", "mean of 50 steps"),
      about.state === "running" ? tile("Time left", about.seconds_left === null ? "unknown" : duration(about.seconds_left)) : null,
      ...memoryTiles(about)));
}

function drawOverview() {
  if (!runs.size) {
    show(byId("overview"), empty(server.receives
      ? "No run yet. It appears here with its first webhook."
      : "Reading the runs."));
    return;
  }
  show(byId("overview"), ...shown().map(card));
  const [first] = shown();
  const about = first?.sections.about;
  document.title = about?.steps ? `${Math.floor((100 * about.step) / about.steps)} % ${label(first)}` : "sd3tune watch";
}

/** The switches of the runs, where there are several. */
function drawSwitches() {
  if (runs.size < 2) return show(byId("runs"));
  show(byId("runs"), ...[...runs.values()].map((run) => el("button", {
    type: "button", class: "switch", "aria-pressed": String(!view.hidden.has(run.key)), title: `Show or hide ${label(run)}`,
    onclick: () => toggle(run.key),
  }, el("i", { class: "dot", style: { background: colourOf(run.key) } }), label(run))));
}

/** Shows or hides a run; the last one stays. */
export function toggle(key) {
  if (!runs.has(key)) return;
  if (view.hidden.has(key)) view.hidden.delete(key);
  else if (shown().length > 1) view.hidden.add(key);
  if (view.hidden.has(view.detail)) view.detail = shown()[0].key;
  change("runs");
  change("view");
}

export function startOverview() {
  on("about evaluations curves runs view", drawOverview);
  on("about runs view", drawSwitches);
  drawOverview();
}
