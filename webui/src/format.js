/**
 * Numbers, sizes, durations and times as people read them.
 *
 * Rule: pure functions. A time is milliseconds since 1970 in, text out. Counts are exact; only rates and sizes are
 * shortened.
 */

const GROUPED = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** @param {number | bigint} value */
export const count = (value) => GROUPED.format(value);

/** @param {number} value */
export const shortCount = (value) => (value < 10_000 ? GROUPED.format(value) : SHORT.format(value));

/**
 * "1 message", "2,000 messages".
 * @param {number} value
 * @param {string} noun
 */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Messages a second. @param {number} value */
export function rate(value) {
  if (!value) return "0";
  if (value < 0.1) return "<0.1";
  return value < 100 ? value.toFixed(1) : shortCount(Math.round(value));
}

/** @param {number} value */
export function bytes(value) {
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let size = value / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/**
 * The two largest units of a duration: "3 d 4 h", "12 s".
 * @param {number} ms
 */
export function duration(ms) {
  if (ms < SECOND) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ${Math.floor((ms % MINUTE) / SECOND)} s`;
  if (ms < DAY) return `${Math.floor(ms / HOUR)} h ${Math.floor((ms % HOUR) / MINUTE)} min`;
  if (ms < 1000 * DAY) return `${Math.floor(ms / DAY)} d ${Math.floor((ms % DAY) / HOUR)} h`;
  return `${count(Math.floor(ms / DAY))} d`;
}

/** Whole microseconds. @param {number} us */
export function microseconds(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  return us < 1_000_000 ? `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms` : `${(us / 1_000_000).toFixed(2)} s`;
}

/** @typedef {"local" | "utc"} Zone */

/**
 * "2026-11-26 17:05:09.123 UTC", or with the offset of the local zone.
 * @param {number} ms
 * @param {Zone} zone
 */
export function instant(ms, zone) {
  const time = new Date(ms);
  if (zone === "utc") return `${time.toISOString().replace("T", " ").slice(0, 23)} UTC`;
  const offset = -time.getTimezoneOffset();
  const local = new Date(ms + offset * MINUTE).toISOString().replace("T", " ").slice(0, 23);
  return `${local} ${offsetName(offset)}`;
}

/**
 * "17:05:09".
 * @param {number} ms
 * @param {Zone} zone
 */
export const clock = (ms, zone) => instant(ms, zone).slice(11, 19);

/** @param {number} minutes */
function offsetName(minutes) {
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  const size = Math.abs(minutes);
  return `UTC${minutes < 0 ? "−" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

/**
 * "12 s ago", "in 3 min 5 s".
 * @param {number} ms
 * @param {number} now
 */
export function relative(ms, now) {
  const away = ms - now;
  if (Math.abs(away) < SECOND) return "now";
  return away < 0 ? `${duration(-away)} ago` : `in ${duration(away)}`;
}
