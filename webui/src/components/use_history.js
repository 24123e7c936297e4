/**
 * The last ten minutes of a queue, second by second, for its charts.
 *
 * Rule: the server keeps ten seconds of each queue; the page adds up what it has seen. A queue that was left keeps its
 * points, so coming back shows a gap and no loss. At most `MAX_QUEUES` are kept.
 */

import { useEffect, useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { useAnswer } from "./use_answer.js";

/** @typedef {import("../types.js").MetricPoint} Point */

const WINDOW_MS = 600_000;
const MAX_QUEUES = 20;
/** A hole this long is drawn as one. */
const GAP_MS = 5_000;

/** Queue -> its points, oldest first. @type {Map<string, Point[]>} */
const kept = new Map();

/** @param {string} queue @param {Point[]} points */
function add(queue, points) {
  const old = kept.get(queue) ?? [];
  kept.delete(queue);
  const last = old.at(-1)?.t_ms ?? 0;
  const fresh = points.filter((point) => point.t_ms > last);
  const oldest = (points.at(-1)?.t_ms ?? last) - WINDOW_MS;
  kept.set(queue, [...old.filter((point) => point.t_ms >= oldest), ...fresh]);
  for (const name of kept.keys()) {
    if (kept.size <= MAX_QUEUES) break;
    kept.delete(name);
  }
}

/**
 * Columns for a chart: seconds, then each value.
 * @param {Point[]} points
 * @param {((point: Point) => number)[]} values
 * @returns {(number | null)[][]}
 */
export function columns(points, values) {
  /** @type {(number | null)[][]} */
  const made = [[], ...values.map(() => [])];
  let before = 0;
  for (const point of points) {
    if (before && point.t_ms - before > GAP_MS) {
      made[0]?.push((before + 1000) / 1000);
      for (const column of made.slice(1)) column.push(null);
    }
    made[0]?.push(point.t_ms / 1000);
    values.forEach((value, index) => made[index + 1]?.push(value(point)));
    before = point.t_ms;
  }
  return made;
}

/** @param {string} queue @returns {Point[]} */
export function useHistory(queue) {
  const { data } = useAnswer(requests.metrics(queue), 1_000);
  const [points, setPoints] = useState(/** @type {Point[]} */ (kept.get(queue) ?? []));
  useEffect(() => {
    if (!data) return;
    add(queue, data.points);
    setPoints(kept.get(queue) ?? []);
  }, [data]);
  return points;
}
