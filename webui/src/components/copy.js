/** Buttons that copy: any text, or a request as a curl command. */

import { useState } from "../../vendor/hooks.js";
import { curl } from "../api.js";
import { html } from "../html.js";
import { notify } from "../store.js";
import { Icon } from "./icon.js";

const SHOWN_MS = 1_500;

/**
 * Copy text. Over plain HTTP off localhost browsers have no clipboard object, so there is an older way, too.
 * @param {string} text
 */
async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  // Inside an open dialog nothing outside of it can be selected.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("the browser does not allow it");
}

/**
 * @param {{ text: () => string, label: string, title?: string, compact?: boolean }} props
 */
export function Copy({ text, label, title, compact = false }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await copyText(text());
      setCopied(true);
      setTimeout(() => setCopied(false), SHOWN_MS);
    } catch (error) {
      notify(`Not copied: ${error instanceof Error ? error.message : error}`, true);
    }
  };
  return html`
    <button
      type="button"
      class="button quiet ${compact ? "square" : ""}"
      title=${title ?? label}
      aria-label=${compact ? label : undefined}
      onClick=${copy}
    >
      <${Icon} name=${copied ? "good" : "copy"} />${!compact && (copied ? "Copied" : label)}
    </button>
  `;
}

/** @param {{ request: import("../curl.js").Request }} props */
export const CopyCurl = ({ request }) =>
  html`<${Copy} text=${() => curl(request)} label="curl" title="Copy as a curl command" />`;
