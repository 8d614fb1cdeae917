// Numbers as people read them.

/** 0.03124 -> "0.0312", 2.1e-7 -> "2.1e-7"; "unknown" for what is not a number. */
export function short(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "unknown";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(size >= 1000 ? Math.max(digits, 4) : digits)));
}

export const count = (value) => Math.round(value).toLocaleString("en");

/** Bytes as "3.1 GiB". */
export function bytes(value) {
  if (typeof value !== "number") return "unknown";
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[unit]}`;
}

/** Seconds as "2 h 05 min". */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return "unknown";
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Seconds of a step: "0.21 s". */
export const stepTime = (seconds) => (typeof seconds === "number" ? `${short(seconds)} s` : "unknown");

/** Seconds since 1970 as the time of day, with the date where it is not today. */
export function clock(time) {
  if (typeof time !== "number") return "";
  const date = new Date(time * 1000);
  const hours = date.toLocaleTimeString("en-GB");
  return date.toDateString() === new Date().toDateString() ? hours : `${date.toLocaleDateString("en-CA")} ${hours}`;
}

export const size = (pair) => (Array.isArray(pair) ? `${pair[0]} × ${pair[1]}` : "");
