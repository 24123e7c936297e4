/** A line without axes: how a number moved over the last seconds. */

import { html } from "../html.js";

const WIDTH = 100;
const HEIGHT = 24;
const EDGE = 2;

/**
 * @param {{ values: number[], label: string, colour?: "1" | "2" | "3" | "4" }} props `label` says it in words.
 */
export function Sparkline({ values, label, colour = "1" }) {
  if (values.length < 2) return html`<svg class="sparkline" role="img" aria-label=${label} viewBox="0 0 ${WIDTH} ${HEIGHT}" />`;
  const least = Math.min(...values);
  const most = Math.max(...values);
  const span = most - least;
  const points = values.map((value, index) => {
    const x = (index / (values.length - 1)) * WIDTH;
    const share = span ? (value - least) / span : 0;
    return `${x.toFixed(1)},${(HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE)).toFixed(1)}`;
  });
  return html`
    <svg class="sparkline colour-${colour}" role="img" aria-label=${label} viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none">
      <polygon points="0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}" />
      <polyline points=${points.join(" ")} />
    </svg>
  `;
}
