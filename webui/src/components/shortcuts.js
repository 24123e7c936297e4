/**
 * Keys: `/` searches, `g` and a letter goes somewhere, `r` refreshes, `n` makes a queue, `?` lists them.
 *
 * Rule: no key does anything while something is typed, a dialog is open, or Ctrl, Alt or Meta is held.
 */

import { useEffect } from "../../vendor/hooks.js";
import { signal } from "../../vendor/signals.js";
import { html } from "../html.js";
import { go } from "../router.js";
import { Dialog } from "./dialog.js";
import { refreshes } from "./use_answer.js";

export const helpOpen = signal(false);

/** @type {[string, string][]} */
const KEYS = [
  ["/", "Search on this screen"],
  ["g o", "Overview"],
  ["g q", "Queues"],
  ["g f", "Find a message"],
  ["g l", "Log"],
  ["g t", "Timings"],
  ["g a", "Audit"],
  ["n", "New queue, on the queues screen; publish, on a queue"],
  ["r", "Ask the server at once"],
  ["?", "These keys"],
  ["Esc", "Close a dialog or a menu"],
];
const PLACES = /** @type {Record<string, string>} */ ({ o: "overview", q: "queues", f: "find", l: "log", t: "timings", a: "audit" });
const GO_MS = 1_500;

export function Shortcuts() {
  useEffect(() => {
    let going = -GO_MS;
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (event.ctrlKey || event.altKey || event.metaKey || target.closest?.("input, textarea, select, dialog")) return;
      // When they were pressed: a busy page sees them later.
      const place = event.timeStamp - going < GO_MS ? PLACES[event.key] : undefined;
      going = event.key === "g" ? event.timeStamp : -GO_MS;
      if (place) go(place);
      else if (event.key === "?") helpOpen.value = true;
      else if (event.key === "r") refreshes.value += 1;
      else if (event.key === "/") /** @type {HTMLElement | null} */ (document.querySelector("[data-search]"))?.focus();
      else if (event.key === "n") /** @type {HTMLElement | null} */ (document.querySelector("[data-new]"))?.click();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  if (!helpOpen.value) return null;
  return html`
    <${Dialog} title="Keys" onClose=${() => (helpOpen.value = false)}>
      <dl class="keys">
        ${KEYS.map(([keys, meaning]) => html`<dt>${keys.split(" ").map((key) => html`<kbd>${key}</kbd> `)}</dt><dd>${meaning}</dd>`)}
      </dl>
    <//>
  `;
}
