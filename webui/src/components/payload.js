/**
 * A payload as text: pretty-printed when it is JSON, as hex when it is not text-like, decoded on request.
 *
 * Rule: nothing is altered but for the view that was asked for, and nothing becomes markup. At most a part of a large
 * payload is drawn; the rest comes on request, or as a file.
 */

import { useEffect, useState } from "../../vendor/hooks.js";
import { bytes } from "../format.js";
import { html } from "../html.js";
import { prettyJson } from "../json.js";
import { sentence } from "../store.js";
import { Copy } from "./copy.js";
import { Icon } from "./icon.js";
import { save } from "./save.js";

const SHOWN_CHARS = 16 * 1024;
/** Larger ones are not formatted: parsing them would hold up the page. */
const MAX_JSON_CHARS = 1024 * 1024;
const HEX_BYTES = 16;

const VIEWS = /** @type {const} */ ([
  ["json", "JSON"],
  ["text", "Text"],
  ["hex", "Hex"],
  ["base64", "Base64"],
]);

/** @param {string} text */
const sizeOf = (text) => new TextEncoder().encode(text).length;

/** Whether it is better read as bytes: it has control characters that no text has. @param {string} text */
const isBinary = (text) => /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\ufffd]/.test(text.slice(0, SHOWN_CHARS));

/** @param {Uint8Array} data */
function hex(data) {
  const lines = [];
  for (let at = 0; at < data.length; at += HEX_BYTES) {
    const row = [...data.subarray(at, at + HEX_BYTES)];
    const digits = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${digits.padEnd(3 * HEX_BYTES - 1)}  ${text}`);
  }
  return lines.join("\n");
}

/** What base64 stands for, unpacked if it is gzip: as text, or else as hex. @param {string} text */
async function decoded(text) {
  let data;
  try {
    data = Uint8Array.from(atob(text.trim().replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  } catch {
    return "This is not base64.";
  }
  if (data[0] === 0x1f && data[1] === 0x8b) {
    try {
      const plain = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
      data = new Uint8Array(await new Response(plain).arrayBuffer());
    } catch {
      // It only looks like gzip: its bytes are shown.
    }
  }
  const read = new TextDecoder().decode(data);
  return isBinary(read) ? hex(data.subarray(0, SHOWN_CHARS)) : (prettyJson(read) ?? read);
}

/**
 * @param {object} props
 * @param {string} props.text The payload, or how it begins.
 * @param {string} props.id The message's, for the name of a file.
 * @param {number} [props.size] Bytes of the whole payload, if `text` is only its beginning.
 * @param {() => Promise<string>} [props.load] Gets the whole, if `text` is only its beginning.
 * @param {string} [props.label] What it is, if not a payload.
 */
export function Payload({ text, id, size, load, label = "Payload" }) {
  const [whole, setWhole] = useState(/** @type {string | null} */ (load ? null : text));
  const [shown, setShown] = useState(SHOWN_CHARS);
  const [problem, setProblem] = useState("");
  const [unpacked, setUnpacked] = useState("");
  const current = whole ?? text;
  const json = current.length <= MAX_JSON_CHARS ? prettyJson(current) : null;
  const [chosen, setView] = useState("");
  const view = chosen || (json !== null ? "json" : isBinary(current) ? "hex" : "text");
  useEffect(() => {
    if (view === "base64") void decoded(current).then(setUnpacked);
  }, [view, current]);

  async function all() {
    if (whole !== null) return whole;
    try {
      const got = /** @type {() => Promise<string>} */ (load)();
      const loaded = await got;
      setWhole(loaded);
      setProblem("");
      return loaded;
    } catch (error) {
      setProblem(sentence(error));
      return null;
    }
  }
  async function more() {
    if ((await all()) !== null) setShown(whole === null ? SHOWN_CHARS : shown * 4);
  }

  const full =
    view === "json" && json !== null
      ? json
      : view === "hex"
        ? hex(new TextEncoder().encode(current.slice(0, shown)).subarray(0, shown))
        : view === "base64"
          ? unpacked
          : current;
  const part = full.slice(0, view === "hex" ? undefined : shown);
  const total = size ?? sizeOf(current);
  const cut = whole === null || part.length < full.length || (view === "hex" && current.length > shown);

  return html`
    <section class="payload" aria-label=${label}>
      <header class="payload-bar">
        <span class="segments" role="group" aria-label="View">
          ${VIEWS.map(
            ([name, title]) => html`
              <button type="button" aria-pressed=${view === name} disabled=${name === "json" && json === null} onClick=${() => setView(name)}>
                ${title}
              </button>
            `,
          )}
        </span>
        <span class="quiet tabular">${bytes(total)}</span>
        <span class="payload-tools">
          ${whole !== null && html`<${Copy} text=${() => current} label="Copy" title="Copy it as it is" />`}
          <button
            type="button"
            class="button quiet"
            onClick=${async () => {
              const got = await all();
              if (got !== null) save(got, `${id}.txt`);
            }}
          >
            <${Icon} name="download" />Download
          </button>
        </span>
      </header>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <pre dir="auto" tabindex="0" role="region" aria-label="${label} as ${view}">${part || "(empty)"}</pre>
      ${cut &&
      html`
        <footer class="payload-more">
          <span>The first ${bytes(sizeOf(part))}${view === "hex" ? " of the dump" : ""} of ${bytes(total)}</span>
          <button type="button" class="button" onClick=${more}>Show more</button>
        </footer>
      `}
    </section>
  `;
}
