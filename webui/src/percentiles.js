/**
 * Percentiles of durations, from histograms that the server adds up since its start.
 *
 * Rule: a percentile is that of all runs in a time: the difference of two histograms. Its bucket is exact, its place
 * within the bucket is estimated, so it is within a factor of two, and usually within a tenth.
 */

/** @typedef {import("./types.js").Histogram} Histogram */
/** @typedef {{ at: number, operations: Record<string, Histogram> }} Snapshot */

const KEPT = 1_300;

/** What was seen since the page was opened, oldest first. @type {Snapshot[]} */
let seen = [];

/** @param {Snapshot} snapshot */
export function remember(snapshot) {
  const last = seen.at(-1);
  const restarted = last && Object.entries(last.operations).some(([name, old]) => (snapshot.operations[name]?.count ?? 0) < old.count);
  seen = [...(restarted ? [] : seen.slice(1 - KEPT)), snapshot];
}

/**
 * The runs of the last `ms`, as far as the page has seen them; else those since the server started.
 * @param {string} operation
 * @param {number} ms
 * @returns {Map<number, number>} Upper bound in ns -> runs.
 */
export function runsOf(operation, ms) {
  const last = seen.at(-1);
  const before = last && seen.findLast((each) => each.at <= last.at - ms);
  const runs = new Map(last?.operations[operation]?.buckets ?? []);
  for (const [bound, count] of before?.operations[operation]?.buckets ?? []) runs.set(bound, (runs.get(bound) ?? 0) - count);
  return runs;
}

/**
 * The duration that a share of the runs stays under, in microseconds; null without a run.
 * @param {Map<number, number>} runs
 * @param {number} share
 */
export function percentile(runs, share) {
  const buckets = [...runs].filter(([, count]) => count > 0).sort(([one], [other]) => one - other);
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  let left = share * total;
  for (const [bound, count] of buckets) {
    if (left <= count) return (bound / 2) * 2 ** (left / count) / 1000;
    left -= count;
  }
  return null;
}
