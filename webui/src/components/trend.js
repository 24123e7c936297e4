/** Where a queue is heading, in a word: the server works it out from the depth of the last ten seconds. */

import { html } from "../html.js";
import { duration } from "../format.js";

/** @type {Record<import("../types.js").Trend, { kind: string, title: string }>} */
const TRENDS = {
  empty: { kind: "", title: "No messages" },
  steady: { kind: "", title: "As many come as go" },
  draining: { kind: "good", title: "Time until it is empty, at the present rate" },
  growing: { kind: "warn", title: "More messages come than go" },
  stalled: { kind: "bad", title: "Messages wait, and nobody takes them" },
};

/** @param {{ row: import("../types.js").QueueRow }} props */
export function TrendPill({ row }) {
  const { kind, title } = TRENDS[row.trend];
  if (row.trend === "empty") return html`<span class="quiet" title=${title}>empty</span>`;
  const text = row.trend === "draining" && row.drain_seconds !== null ? `${duration(row.drain_seconds * 1000)} left` : row.trend;
  return html`<span class="pill ${kind}" title=${title}>${text}</span>`;
}
