// The curves. All charts share one range of steps; each draws at most two points a pixel.

import { byId, el } from "./dom.js";
import { short, stepTime } from "./format.js";
import { reduced } from "./series.js";
import { change, colourOf, label, on, shown, view } from "./store.js";

const WINDOWS = [1, 3, 10, 30, 100, 300, 1000, 3000]; // steps of smoothing, one a notch
const CHARTS = [
  { id: "loss", title: "Loss", column: "loss", evaluations: true, wide: true, smooth: true, mayBeLog: true },
  { id: "learning_rate", title: "Learning rate", column: "learning_rate", stepped: true },
  { id: "grad_norm", title: "Gradient norm", column: "grad_norm", smooth: true },
  { id: "seconds", title: "Seconds per step", column: "seconds", smooth: true, read: stepTime },
  { id: "scores", title: "Scores of pictures", scores: true, optional: true },
  { id: "levels", title: "Loss by noise level", levels: true, about: "mean of 100 steps" },
];

/** The value of a custom property, for the canvas. */
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (run) => css(colourOf(run.key).slice(4, -1));

/** The lines of a chart: where their points are, and how they look. */
function linesOf(chart) {
  const lines = [];
  for (const run of shown()) {
    const name = label(run), stroke = colour(run), steps = run.columns.column("step") ?? [];
    const add = (line) => lines.push({ run: run.key, stroke, steps, width: 2, ...line });
    if (chart.column) {
      const values = run.columns.column(chart.column);
      const smooth = chart.smooth && view.window > 1;
      if (values && smooth) add({ values, stroke: `color-mix(in srgb, ${stroke} 32%, transparent)`, width: 1, quiet: true });
      if (values) add({ name, values: smooth ? run.columns.smoothed(chart.column, view.window) : values });
    }
    if (chart.evaluations) {
      for (const [dataset, points] of grouped(run.sections.evaluations ?? [], (each) => each.dataset)) {
        add({ name: `${name}, evaluation of ${dataset}`, points: true, dash: [5, 4], steps: points.map((p) => p.step), values: points.map((p) => p.loss ?? NaN) });
      }
    }
    if (chart.scores) {
      const names = new Set((run.sections.scores ?? []).flatMap((each) => Object.keys(each.scores)));
      for (const each of names) {
        const points = run.sections.scores.filter((s) => typeof s.scores[each] === "number");
        add({ name: `${name}, ${each}`, points: true, steps: points.map((p) => p.step), values: points.map((p) => p.scores[each]) });
      }
    }
    if (chart.levels) {
      const losses = run.sections.levels?.losses ?? [];
      if (losses.length) add({ name, points: true, steps: losses.map((_, i) => (i + 0.5) / losses.length), values: losses.map((v) => v ?? NaN) });
    }
  }
  return lines;
}

function grouped(list, keyOf) {
  const groups = new Map();
  for (const each of list) groups.set(keyOf(each), [...(groups.get(keyOf(each)) ?? []), each]);
  return groups;
}

/** First and last step of everything that is shown. */
function everything() {
  const most = Math.max(0, ...shown().map((run) => run.columns.lastStep()));
  const least = Math.min(...shown().map((run) => run.columns.column("step")?.[0] ?? Infinity));
  return [Math.min(least, most), Math.max(most, least + 1)];
}

/** The range of steps that is shown. */
export function range() {
  const [least, most] = everything();
  if (view.range) return view.range;
  return view.last ? [Math.max(least, most - view.last), most] : [least, most];
}

/** Shows the steps from `from` to `to`. */
export function zoomTo(from, to) {
  const [least, most] = everything();
  const width = Math.max(4, to - from);
  const start = Math.max(least, Math.min(from, most - width));
  view.range = width >= most - least ? null : [start, Math.min(most, start + width)];
  change("range");
}

export function resetZoom() {
  view.range = null;
  view.last = 0;
  byId("span").value = "0";
  change("range");
}

class Chart {
  constructor(kind) {
    this.kind = kind;
    this.readout = el("span", { class: "readout" });
    this.inView = true;
    this.body = el("div", { class: "plot", hidden: true, tabindex: 0, role: "img", "aria-label": kind.title, onkeydown: (event) => this.key(event) });
    this.nothing = el("p", { class: "empty" }, "The first numbers come with the first step.");
    this.box = el("figure", { class: kind.wide ? "card chart wide" : "card chart", id: `chart-${kind.id}` },
      el("figcaption", {}, el("span", {}, kind.title), this.readout), this.body, this.nothing);
    this.body.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.width = 0; // remembered, because asking for it in every frame costs a layout
    new ResizeObserver(([entry]) => this.resize(entry.contentRect)).observe(this.body);
    new IntersectionObserver(([entry]) => this.scrolled(entry.isIntersecting), { rootMargin: "150px" }).observe(this.box);
  }

  /** Draws what is there now. */
  draw() {
    const lines = linesOf(this.kind);
    const filled = lines.some((line) => line.steps.length);
    if (this.body.hidden === filled) {
      this.nothing.hidden = filled;
      this.body.hidden = !filled;
    }
    this.box.hidden = Boolean(this.kind.optional) && !filled;
    if (!filled || !this.inView || !this.width) return;
    const [from, to] = this.kind.levels ? [0, 1] : range();
    const data = reduced(lines, from, to, Math.max(50, this.width - 60));
    const looks = JSON.stringify([lines.map((l) => [l.run, l.name, l.stroke, l.width]), view.logarithmic, document.documentElement.dataset.theme]);
    if (looks !== this.looks) this.build(lines, data, looks);
    else this.plot.setData(data, false);
    if (this.lines?.length !== lines.length || this.rows !== lines[0].values.length) this.describe(lines);
    this.rows = lines[0].values.length;
    this.lines = lines;
    this.points = data[0].length;
    this.plot.setScale("x", { min: from, max: to });
    this.explain(lines);
  }

  /** Only what can be seen is drawn; the rest follows when it is scrolled to. */
  scrolled(inView) {
    const comes = inView && !this.inView;
    this.inView = inView;
    if (comes) this.draw();
  }

  build(lines, data, looks) {
    this.plot?.destroy();
    this.looks = looks;
    const ink = css("--quiet"), rule = css("--rule"), font = "11px system-ui, sans-serif";
    const axis = { stroke: ink, font, grid: { stroke: rule, width: 1 }, ticks: { stroke: rule, width: 1, size: 4 } };
    const log = this.kind.mayBeLog && view.logarithmic;
    this.plot = new uPlot({
      width: this.width,
      height: this.height,
      legend: { show: false },
      padding: [8, 14, 0, 0],
      scales: { x: { time: false }, y: log ? { distr: 3 } : {} },
      axes: [
        { ...axis, size: 28, gap: 3, space: 60 },
        { ...axis, size: 52, gap: 4, space: 34, values: (_, splits) => splits.map((v) => (v === null ? "" : short(v))) },
      ],
      cursor: {
        sync: this.kind.levels ? undefined : { key: "steps", setSeries: false },
        drag: { x: !this.kind.levels, y: false, setScale: false },
        points: { size: 6 },
        bind: { dblclick: () => () => { resetZoom(); return null; } },
      },
      series: [{}, ...lines.map((line) => ({
        stroke: line.stroke,
        width: line.width,
        dash: line.dash,
        points: line.points ? { show: true, size: 7, fill: line.stroke } : { show: false },
        paths: this.kind.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
      }))],
      hooks: {
        setSelect: [(plot) => this.selected(plot)],
        setCursor: [(plot) => this.read(plot)],
      },
    }, data, this.body);
  }

  selected(plot) {
    const { left, width } = plot.select;
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    if (width > 4) zoomTo(plot.posToVal(left, "x"), plot.posToVal(left + width, "x"));
  }

  /** The values under the cursor, in a line whose place is always there. */
  read(plot) {
    const index = plot.cursor.idx;
    if (index === null || index === undefined || plot.cursor.left < 0) {
      this.readout.textContent = this.legend;
      return;
    }
    const x = plot.data[0][index];
    const values = [];
    this.lines.forEach((line, i) => {
      const value = plot.data[i + 1][index];
      if (!line.quiet && typeof value === "number") values.push(this.lines.length > 2 ? `${line.name} ${short(value, 4)}` : short(value, 4));
    });
    this.readout.textContent = `${this.kind.levels ? "level" : "step"} ${this.kind.levels ? short(x) : Math.round(x)}: ${values.join(", ") || "no value"}`;
  }

  /** What the lines are, while nothing is pointed at. */
  explain(lines) {
    const parts = this.kind.about ? [this.kind.about] : [];
    if (this.kind.wide && lines.some((line) => line.quiet)) parts.push("thin: each step", `bold: mean over ${view.window} steps`);
    if (lines.some((line) => line.dash)) parts.push("dashed: evaluation");
    const before = this.legend;
    this.legend = parts.join(" · ");
    if (this.readout.textContent === (before ?? "")) this.readout.textContent = this.legend;
  }

  describe(lines) {
    const last = lines.filter((line) => !line.quiet && line.values.length)
      .map((line) => `${line.name}: ${short(line.values[line.values.length - 1], 4)}`);
    this.body.setAttribute("aria-label", `${this.kind.title}. ${last.join("; ")}. Arrow keys move, plus and minus zoom, 0 shows everything.`);
  }

  key(event) {
    if (this.kind.levels || event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = range(), width = to - from;
    const moves = { ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2], "+": [0.2, -0.2], "=": [0.2, -0.2], "-": [-0.3, 0.3] };
    if (event.key === "0") resetZoom();
    else if (moves[event.key]) zoomTo(from + moves[event.key][0] * width, to + moves[event.key][1] * width);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  wheel(event) {
    if (this.kind.levels || !(event.ctrlKey || event.metaKey)) return; // the wheel alone scrolls the page
    event.preventDefault();
    const [from, to] = range(), box = this.body.getBoundingClientRect();
    const at = from + ((event.clientX - box.left) / box.width) * (to - from);
    const scale = event.deltaY > 0 ? 1.2 : 1 / 1.2;
    zoomTo(at - (at - from) * scale, at + (to - at) * scale);
  }

  resize({ width, height }) {
    this.width = width;
    this.height = height;
    if (!width) return;
    this.plot?.setSize({ width, height });
    this.draw();
  }
}

export const charts = CHARTS.map((kind) => new Chart(kind));

const FOLLOW_MS = 60; // while the user zooms, the small charts follow the large one that late
let followers = null;

function drawCharts(some) {
  controls();
  for (const chart of some) chart.draw();
}

function controls() {
  byId("whole").disabled = !view.range && !view.last;
  byId("smoothed").textContent = view.window > 1 ? `${view.window} steps` : "off";
}

/** Changes the smoothing by a number of notches. */
export function smoother(notches) {
  const input = byId("smoothing");
  input.value = Number(input.value) + notches;
  input.dispatchEvent(new Event("input"));
}

export function startCharts() {
  byId("charts").replaceChildren(...charts.map((chart) => chart.box));
  const smoothing = byId("smoothing");
  smoothing.value = WINDOWS.indexOf(view.window);
  smoothing.addEventListener("input", () => { view.window = WINDOWS[smoothing.value]; change("view"); });
  byId("logarithmic").addEventListener("change", (event) => { view.logarithmic = event.target.checked; change("range"); });
  byId("span").addEventListener("change", (event) => { view.range = null; view.last = Number(event.target.value); change("range"); });
  byId("whole").addEventListener("click", resetZoom);
  on("curves evaluations scores levels about runs view theme", () => drawCharts(charts));
  on("range", () => {
    drawCharts(charts.filter((chart) => chart.kind.wide));
    followers ??= setTimeout(() => { followers = null; drawCharts(charts); }, FOLLOW_MS);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => change("theme"));
  controls();
}
