/**
 * How long operations take, each in a row that opens to its charts.
 *
 * Rule: what the server keeps of each second (count, sum, shortest, longest) makes the charts. Percentiles are those of
 * all runs, from its histograms.
 */

import { useRef, useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { Chart } from "../components/chart.js";
import { CopyCurl } from "../components/copy.js";
import { Problem } from "../components/problem.js";
import { useAnswer } from "../components/use_answer.js";
import { Sparkline } from "../components/sparkline.js";
import { count, microseconds, shortCount } from "../format.js";
import { html } from "../html.js";
import { percentile, remember, runsOf } from "../percentiles.js";
import { setParams } from "../router.js";

/** @typedef {import("../types.js").TimingPoint} Point */

const RANGES = [
  ["60", "1 min"],
  ["300", "5 min"],
  ["3600", "1 h"],
];
const DURATIONS = [
  { label: "Longest", colour: "--chart-3" },
  { label: "Mean", colour: "--chart-1" },
  { label: "Shortest", colour: "--chart-4" },
];
/** A logarithmic axis has no zero. @type {((point: Point) => number)[]} */
const AT_LEAST_ONE = [
  (point) => Math.max(point.max_us, 1),
  (point) => Math.max(point.total_us / point.count, 1),
  (point) => Math.max(point.min_us, 1),
];
const COUNTS = [{ label: "Runs/s", colour: "--chart-1", fill: true }];

/** @param {Point[]} points */
function summary(points) {
  const runs = points.reduce((sum, point) => sum + point.count, 0);
  const total = points.reduce((sum, point) => sum + point.total_us, 0);
  const longest = points.reduce((most, point) => Math.max(most, point.max_us), 0);
  return { runs, mean: total / runs, longest };
}

/** Seconds without a run are gaps. @param {Point[]} points @param {((point: Point) => number)[]} values */
function columns(points, values) {
  /** @type {(number | null)[][]} */
  const made = [[], ...values.map(() => [])];
  let before = 0;
  for (const point of points) {
    if (before && point.t_epoch_s - before > 1) {
      made[0]?.push(before + 1);
      for (const column of made.slice(1)) column.push(null);
    }
    made[0]?.push(point.t_epoch_s);
    values.forEach((value, index) => made[index + 1]?.push(value(point)));
    before = point.t_epoch_s;
  }
  return made;
}

/** @param {{ params: Record<string, string> }} props */
export function TimingsScreen({ params }) {
  const seconds = RANGES.some(([value]) => value === params.seconds) ? Number(params.seconds) : 300;
  const request = requests.timings(seconds);
  const { data, error } = useAnswer(request, seconds > 600 ? 10_000 : 3_000, true);
  const histograms = useAnswer(requests.histograms(), 3_000, true).data;
  const remembered = useRef(/** @type {any} */ (null));
  if (histograms && remembered.current !== histograms) {
    remembered.current = histograms;
    remember({ at: Date.now(), operations: histograms.operations });
  }
  const [open, setOpen] = useState("");
  const operations = Object.entries(/** @type {Record<string, Point[]>} */ (data ?? {}))
    .filter(([, points]) => points.length > 0)
    .sort(([one], [other]) => one.localeCompare(other));
  return html`
    <section class="stack large" aria-labelledby="title">
      <div class="toolbar flush">
        <h1 id="title">Timings</h1>
        <span class="segments" role="group" aria-label="How far back">
          ${RANGES.map(
            ([value, title]) => html`<button type="button" aria-pressed=${String(seconds) === value} onClick=${() => setParams({ seconds: value ?? "" })}>${title}</button>`,
          )}
        </span>
        <span class="quiet secondary">Time in the server, without the network and the sync. storage_… is the broker's share.</span>
        <span class="toolbar-end"><${CopyCurl} request=${request} /></span>
      </div>
      <${Problem} error=${error} />
      ${data && operations.length === 0 && html`<div class="empty"><p>Nothing ran in this time.</p></div>`}
      ${operations.length > 0 &&
      html`
        <div class="table-box">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">Operation</th>
                <th scope="col" class="number">Runs</th>
                <th scope="col" class="number secondary">Mean</th>
                <th scope="col" class="number" title="Half of the runs took at most this">p50</th>
                <th scope="col" class="number" title="One run in a hundred took longer">p99</th>
                <th scope="col" class="number secondary">Longest</th>
                <th scope="col" class="wide secondary">Mean, second by second</th>
              </tr>
            </thead>
            <tbody>
              ${operations.map(([name, points]) => html`<${Operation} key=${name} name=${name} points=${points} runs=${runsOf(name, 1000 * seconds)} open=${open === name} toggle=${() => setOpen(open === name ? "" : name)} />`)}
            </tbody>
          </table>
        </div>
      `}
    </section>
  `;
}

/** @param {{ name: string, points: Point[], runs: Map<number, number>, open: boolean, toggle: () => void }} props */
function Operation({ name, points, runs, open, toggle }) {
  const { runs: times, mean, longest } = summary(points);
  const shown = (/** @type {number} */ share) => {
    const us = percentile(runs, share);
    return us === null ? "–" : microseconds(Math.min(us, longest || us));
  };
  return html`
    <tr>
      <th scope="row"><button type="button" class="row-button" aria-expanded=${open} onClick=${toggle}>${name}</button></th>
      <td class="number">${count(times)}</td>
      <td class="number secondary">${microseconds(mean)}</td>
      <td class="number">${shown(0.5)}</td>
      <td class="number">${shown(0.99)}</td>
      <td class="number secondary">${microseconds(longest)}</td>
      <td class="wide secondary"><${Sparkline} values=${points.slice(-120).map((point) => point.total_us / point.count)} label=${`Mean of ${name}, second by second`} /></td>
    </tr>
    ${open &&
    html`
      <tr class="opened">
        <td colspan="7">
          <div class="charts">
            <${Chart} label=${`Durations of ${name}`} lines=${DURATIONS} show=${microseconds} logarithmic
              data=${columns(points, AT_LEAST_ONE)} />
            <${Chart} label=${`Runs of ${name} a second`} lines=${COUNTS} show=${shortCount} data=${columns(points, [(point) => point.count])} />
          </div>
        </td>
      </tr>
    `}
  `;
}
