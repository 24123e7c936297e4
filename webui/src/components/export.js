/**
 * Saves a list as a file: a JSON object a line, with every digit of its numbers.
 *
 * Rule: bounded, page after page, and it can be stopped. What is missing in the file is said: entries past the bound,
 * and the rest of large payloads, of which lists have only the beginning.
 */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { send } from "../api.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { encodeJson } from "../json.js";
import { notify, sentence } from "../store.js";
import { Icon } from "./icon.js";
import { save } from "./save.js";

/** @typedef {import("../curl.js").Request} Request */

/** Entries of a file. */
const MAX_ENTRIES = 10_000;
/** Characters of a file: what a tab may hold without a thought. */
const MAX_CHARACTERS = 32 * 1024 * 1024;
/** Entries of a page: the most that the server gives. */
const PAGE = 100;

/**
 * @param {object} props
 * @param {Request} props.request A list with `messages` and a `cursor`; its page and size do not matter.
 * @param {string} props.name Of the file, without an ending.
 */
export function Export({ request, name }) {
  const [done, setDone] = useState(/** @type {number | null} */ (null));
  const ending = useRef(/** @type {AbortController | null} */ (null));
  useEffect(() => () => ending.current?.abort(), []);

  async function run() {
    const stop = new AbortController();
    ending.current = stop;
    setDone(0);
    try {
      const { lines, cut, more } = await collect(request, stop.signal, setDone);
      save(lines.join(""), `${name}.jsonl`);
      const notes = [more && "there are more", cut > 0 && `${counted(cut, "payload")} cut to the beginning`].filter(Boolean);
      notify([`${counted(lines.length, "message")} exported`, ...notes].join("; "));
    } catch (error) {
      if (!stop.signal.aborted) notify(sentence(error), true);
    } finally {
      setDone(null);
    }
  }

  return done === null
    ? html`
        <button type="button" class="button quiet" title="Save the list as JSON lines" onClick=${run}>
          <${Icon} name="download" />Export
        </button>
      `
    : html`<button type="button" class="button" onClick=${() => ending.current?.abort()}>Stop at ${count(done)}</button>`;
}

/**
 * @param {Request} request
 * @param {AbortSignal} signal
 * @param {(count: number) => void} progress
 */
async function collect(request, signal, progress) {
  /** @type {string[]} */
  const lines = [];
  let characters = 0;
  let cut = 0;
  let cursor = "";
  do {
    const query = { ...request.query, limit: String(PAGE), cursor };
    if (cursor === "") delete (/** @type {{ cursor?: string }} */ (query).cursor);
    const page = await send({ ...request, query }, { signal });
    for (const message of page.messages) {
      if (lines.length === MAX_ENTRIES || characters > MAX_CHARACTERS) return { lines, cut, more: true };
      const line = `${encodeJson(message)}\n`;
      lines.push(line);
      characters += line.length;
      if (message.payload_preview !== undefined) cut += 1;
    }
    progress(lines.length);
    cursor = page.cursor ?? "";
  } while (cursor !== "");
  return { lines, cut, more: false };
}
