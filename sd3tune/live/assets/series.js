// Columns of numbers: taking blocks, smoothing, and reducing them to what a screen can show.

const decode = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer);
};

/** The numbers of a run's steps. Blocks come in order; a new generation begins anew. */
export class Columns {
  constructor() { this.clear(); }

  clear() {
    this.generation = -1;
    this.length = 0;
    this.data = {}; // name -> Float32Array with room to grow
    this.views = {}; // name -> the rows that are there
    this.smooth = {}; // name -> { window, length, values }
  }

  take(block) {
    if (block.generation !== this.generation) { this.clear(); this.generation = block.generation; }
    const length = block.from + block.rows;
    for (const [name, text] of Object.entries(block.columns)) {
      this.grow(name, length);
      this.data[name].set(decode(text), block.from);
    }
    this.length = length;
    for (const name of Object.keys(this.data)) this.grow(name, length);
  }

  grow(name, length) {
    const old = this.data[name];
    if (old && old.length >= length) return;
    const grown = new Float32Array(Math.max(1024, length * 2)).fill(NaN);
    if (old) grown.set(old);
    this.data[name] = grown;
  }

  /** A column; the same array until a row is added. */
  column(name) {
    const data = this.data[name];
    if (!data) return null;
    if (this.views[name]?.length !== this.length || this.views[name].buffer !== data.buffer) this.views[name] = data.subarray(0, this.length);
    return this.views[name];
  }

  last(name) { return this.length ? this.data[name]?.[this.length - 1] : undefined; }
  lastStep() { return this.last("step") ?? 0; }

  /** Exponential mean over about `window` steps, without the pull of the first value to zero. */
  smoothed(name, window) {
    const values = this.column(name);
    if (!values || window <= 1) return values;
    const kept = this.smooth[name];
    if (kept?.window === window && kept.length === this.length) return kept.values;
    const out = new Float32Array(values.length);
    const keep = 1 - 2 / (window + 1);
    let sum = 0, weight = 0;
    for (let i = 0; i < values.length; i++) {
      if (Number.isFinite(values[i])) { sum = keep * sum + (1 - keep) * values[i]; weight = keep * weight + (1 - keep); }
      out[i] = weight ? sum / weight : NaN;
    }
    this.smooth[name] = { window, length: this.length, values: out };
    return out;
  }
}

/** Index of the first step that is at least `step`. steps: ascending. */
export function lowerBound(steps, step) {
  let low = 0, high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low;
}

/**
 * Series with steps of their own, on one common axis, for the steps from `from` to `to`.
 *
 * Where there are more points than `buckets` can show, each bucket keeps its smallest and largest
 * value in the order in which they came: no peak is lost, and the cost of drawing is bounded.
 * lines: { steps, values }. Returns uPlot's data: the axis, then one array a line.
 */
export function reduced(lines, from, to, buckets) {
  const parts = lines.map(({ steps, values }) => {
    let start = lowerBound(steps, from), stop = lowerBound(steps, to + 1e-6);
    if (start > 0) start -= 1; // a line enters and leaves the picture
    if (stop < steps.length) stop += 1;
    return { steps, values, start, stop };
  });
  const most = Math.max(0, ...parts.map((part) => part.stop - part.start));
  return most > 2 * buckets ? inBuckets(parts, from, to, buckets) : exact(parts);
}

function exact(parts) {
  const axis = new Set();
  for (const { steps, start, stop } of parts) for (let i = start; i < stop; i++) axis.add(steps[i]);
  const x = Float64Array.from(axis).sort();
  return [x, ...parts.map(({ steps, values, start, stop }) => {
    const y = new Array(x.length).fill(undefined);
    for (let i = start, at = 0; i < stop; i++) {
      while (x[at] < steps[i]) at += 1;
      y[at] = Number.isFinite(values[i]) ? values[i] : null;
    }
    return y;
  })];
}

function inBuckets(parts, from, to, buckets) {
  const width = (to - from) / buckets;
  const x = Float64Array.from({ length: 2 * buckets }, (_, i) => from + (i + 0.5) * (width / 2));
  return [x, ...parts.map((part) => {
    const y = new Array(x.length).fill(undefined);
    const { steps, least, most, start, stop } = coarser(part, buckets);
    for (let bucket = 0, i = start; bucket < buckets; bucket++) {
      const end = bucket === buckets - 1 ? Infinity : from + (bucket + 1) * width;
      let low = Infinity, high = -Infinity, lowFirst = false;
      for (; i < stop && steps[i] < end; i++) {
        if (least[i] < low) { low = least[i]; lowFirst = false; }
        if (most[i] > high) { high = most[i]; lowFirst = true; }
      }
      if (high < low) continue; // nothing fell into it
      y[2 * bucket] = lowFirst ? low : high;
      y[2 * bucket + 1] = lowFirst ? high : low;
    }
    return y;
  })];
}

const levels = new WeakMap(); // values -> their levels, the finest first

/**
 * A part with pairs of rows joined, and pairs of pairs, as long as some rows fall into each bucket:
 * each keeps its smallest and largest value. Drawing a million steps then costs what four thousand do.
 */
function coarser({ steps, values, start, stop }, buckets) {
  if (!levels.has(values)) levels.set(values, [{ steps, least: values, most: values }]);
  const known = levels.get(values);
  const level = Math.max(0, Math.floor(Math.log2((stop - start) / (3 * buckets))));
  while (known.length <= level) known.push(joined(known[known.length - 1]));
  return { ...known[level], start: start >> level, stop: Math.ceil(stop / 2 ** level) };
}

function joined({ steps, least, most }) {
  const length = Math.ceil(steps.length / 2);
  const half = { steps: new Float32Array(length), least: new Float32Array(length), most: new Float32Array(length) };
  for (let i = 0; i < length; i++) {
    const a = 2 * i, b = Math.min(a + 1, steps.length - 1);
    half.steps[i] = steps[a];
    half.least[i] = Math.min(finite(least[a], Infinity), finite(least[b], Infinity));
    half.most[i] = Math.max(finite(most[a], -Infinity), finite(most[b], -Infinity));
  }
  return half;
}

const finite = (value, otherwise) => (Number.isNaN(value) ? otherwise : value);
