/**
 * Purges or deletes the checked queues, or all that match.
 *
 * Rule: first each queue is asked for anew, so the count is that of now, and what is protected or gone is named and left
 * out. Only what was shown then is touched: queues made meanwhile are not. Then one request follows the other: it can be
 * stopped between two, and whatever failed is told with its reason.
 */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { Unreachable, requests, send } from "../api.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { notify, readOnly, sentence, undoSeconds, undoing } from "../store.js";
import { Dialog } from "./dialog.js";

/** @typedef {import("../types.js").QueueRow} QueueRow */
/** @typedef {{ name: string, why: string }} Left */
/** What the queues have now. @typedef {(signal: AbortSignal) => Promise<{ rows: QueueRow[], left: Left[] }>} Look */

/** Queues that are named before the rest is only counted. */
const NAMED = 8;
/** Queues of a page of the list. */
const PAGE = 200;

/** @param {QueueRow} row @param {"purge" | "delete"} verb */
const touched = (row, verb) => row.available + row.locked + (verb === "delete" ? row.dead : 0);

/**
 * @param {object} props
 * @param {"purge" | "delete"} props.verb
 * @param {Look} props.look
 * @param {() => void} props.onClose
 * @param {(done: Set<string>) => void} props.onDone With the names that are done.
 */
export function QueuesBulk({ verb, look, onClose, onDone }) {
  const [rows, setRows] = useState(/** @type {QueueRow[] | null} */ (null));
  const [left, setLeft] = useState(/** @type {Left[]} */ ([]));
  const [problem, setProblem] = useState("");
  const title = verb === "purge" ? "Purge queues" : "Delete queues";
  useEffect(() => {
    const ending = new AbortController();
    look(ending.signal).then(
      (seen) => {
        setRows(seen.rows);
        setLeft(seen.left);
      },
      (error) => !ending.signal.aborted && setProblem(sentence(error)),
    );
    return () => ending.abort();
  }, []);
  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${!problem && rows === null && html`<p class="quiet" role="status">Counting …</p>`}
      ${rows !== null && html`<${Ask} verb=${verb} rows=${rows} left=${left} onClose=${onClose} onDone=${onDone} />`}
    <//>
  `;
}

/** Those with these names. @param {string[]} names @returns {Look} */
export const named = (names) => async (signal) => {
  /** @type {QueueRow[]} */
  const rows = [];
  /** @type {Left[]} */
  const left = [];
  for (const name of names) {
    /** @type {QueueRow | undefined} */
    const row = (await send(requests.queueList({ name }), { signal })).queues[0];
    if (row === undefined) left.push({ name, why: "it is gone" });
    else if (row.config.protected) left.push({ name, why: "it is protected" });
    else rows.push(row);
  }
  return { rows, left };
};

/** All that match, page by page. @param {string} search @returns {Look} */
export const matching = (search) => async (signal) => {
  // By name: where queues come and go between two pages, one may be in both.
  /** @type {Map<string, QueueRow>} */
  const found = new Map();
  for (let offset = 0; ; offset += PAGE) {
    /** @type {import("../types.js").QueueList} */
    const page = await send(requests.queueList({ search, offset, limit: PAGE }), { signal });
    for (const row of page.queues) found.set(row.name, row);
    if (page.queues.length < PAGE) break;
  }
  const rows = [...found.values()];
  const left = rows.filter((row) => row.config.protected).map(({ name }) => ({ name, why: "it is protected" }));
  return { rows: rows.filter((row) => !row.config.protected), left };
};

/** @param {{ verb: "purge" | "delete", rows: QueueRow[], left: Left[], onClose: () => void, onDone: (done: Set<string>) => void }} props */
function Ask({ verb, rows, left, onClose, onDone }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const [failed, setFailed] = useState(/** @type {Left[]} */ ([]));
  const [over, setOver] = useState(false);
  const ending = useRef(new AbortController());
  const first = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => {
    first.current?.focus();
    return () => ending.current.abort();
  }, []);
  const queues = counted(rows.length, "queue");
  const messages = counted(rows.reduce((sum, row) => sum + touched(row, verb), 0), "message");
  const typed = `${verb} ${queues}`;
  const action = verb === "purge" ? `Purge ${messages} of ${queues}` : `Delete ${queues} and ${messages}`;
  const ready = rows.length > 0 && text === typed && at === null && !readOnly.value;

  /** @param {Event} event */
  async function run(event) {
    event.preventDefault();
    if (!ready) return;
    /** @type {string[]} */
    const done = [];
    /** @type {Left[]} */
    const refused = [];
    for (const [index, row] of rows.entries()) {
      if (ending.current.signal.aborted) break;
      setAt(index);
      try {
        await send(verb === "purge" ? requests.purgeQueue(row.name, undoSeconds.value) : requests.deleteQueue(row.name, undoSeconds.value));
        done.push(row.name);
      } catch (error) {
        refused.push({ name: row.name, why: sentence(error) });
        if (error instanceof Unreachable) break; // Nor would it answer for the others.
      }
    }
    onDone(new Set(done));
    notify(`${counted(done.length, "queue")} ${verb === "purge" ? "purged" : "deleted"}${refused.length ? `, ${count(refused.length)} not` : ""}`);
    if (refused.length === 0) return onClose();
    setFailed(refused);
    setOver(true);
  }

  if (over) return html`<${Named} title="These were left as they are" left=${failed} />`;
  return html`
    <form class="stack" onSubmit=${run}>
      <ul class="samples">
        ${rows.slice(0, NAMED).map((row) => html`<li key=${row.name}><bdi>${row.name}</bdi>: ${counted(touched(row, verb), "message")}</li>`)}
        ${rows.length > NAMED && html`<li class="quiet">and ${count(rows.length - NAMED)} more</li>`}
      </ul>
      <p>
        ${verb === "purge"
          ? `${messages} of ${queues} are removed, and what arrives until then. Dead letters stay.`
          : `${queues} are removed with ${messages}, locked ones and dead letters among them.`}
        ${" "}${undoSeconds.value ? `They can be put back from the trash for ${undoSeconds.value / 60} minutes.` : undoing.value}
      </p>
      ${left.length > 0 && html`<${Named} title=${`Left out: ${counted(left.length, "queue")}`} left=${left} />`}
      ${rows.length > 0 &&
      html`
        <label class="field">
          <span>Type <bdi class="typed">${typed}</bdi> to confirm</span>
          <input
            ref=${first}
            value=${text}
            autocomplete="off"
            spellcheck=${false}
            disabled=${at !== null}
            onInput=${(/** @type {any} */ event) => setText(event.target.value)}
          />
        </label>
      `}
      ${readOnly.value && html`<p class="problem">This server is read-only.</p>`}
      <footer class="dialog-footer">
        ${at !== null && html`<span class="quiet" role="status">${count(at + 1)} of ${queues} …</span>`}
        <button type="button" class="button" onClick=${at === null ? onClose : () => ending.current.abort()}>
          ${at === null ? "Cancel" : "Stop"}
        </button>
        <button type="submit" class="button danger" disabled=${!ready}>${action}</button>
      </footer>
    </form>
  `;
}

/** @param {{ title: string, left: Left[] }} props */
const Named = ({ title, left }) => html`
  <div class="problem">
    <p>${title}</p>
    <ul>
      ${left.slice(0, NAMED).map((each) => html`<li key=${each.name}><bdi>${each.name}</bdi>: ${each.why}</li>`)}
      ${left.length > NAMED && html`<li>and ${count(left.length - NAMED)} more</li>`}
    </ul>
  </div>
`;
