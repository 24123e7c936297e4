/** A moment, relative to now; the exact time in the chosen zone, and in the other one, on hover. */

import { html } from "../html.js";
import { instant, relative } from "../format.js";
import { serverNow, zone } from "../store.js";

/** @param {{ ms: number }} props Milliseconds since 1970, by the server's clock. */
export function Time({ ms }) {
  const both = [instant(ms, zone.value), instant(ms, zone.value === "utc" ? "local" : "utc")];
  return html`<time datetime=${new Date(ms).toISOString()} title=${both.join("\n")}>${relative(ms, serverNow.value)}</time>`;
}

/** The same moment in full, or to the minute if `short`. @param {{ ms: number, short?: boolean }} props */
export function Instant({ ms, short = false }) {
  const title = `${relative(ms, serverNow.value)}\n${instant(ms, zone.value === "utc" ? "local" : "utc")}`;
  return html`<time datetime=${new Date(ms).toISOString()} title=${title}>${instant(ms, zone.value).slice(0, short ? 16 : undefined)}</time>`;
}
