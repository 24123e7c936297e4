/** Finds a message by its id, whatever queue it is in: available, locked, or a dead letter. */

import { useEffect, useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { Copy, CopyCurl } from "../components/copy.js";
import { Icon } from "../components/icon.js";
import { MessageFacts } from "../components/message.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { link, setParams } from "../router.js";
import { sentence } from "../store.js";

/** @typedef {import("../types.js").Message} Message */

/** State of a message -> the tab of its queue that shows it. @type {Record<string, string>} */
const TABS = { available: "next", locked: "locked", dead: "dead" };

/** @param {{ params: Record<string, string> }} props */
export function Find({ params }) {
  const id = params.id ?? "";
  return html`
    <section class="stack large" aria-labelledby="title">
      <div class="toolbar flush">
        <h1 id="title">Find a message</h1>
        <${Box} id=${id} />
      </div>
      ${id === ""
        ? html`<div class="empty"><p>By its id, over all queues: available, locked, and dead letters. Looking changes nothing.</p></div>`
        : html`<${Search} key=${id} id=${id} />`}
    </section>
  `;
}

/** @param {{ id: string }} props */
function Box({ id }) {
  const [text, setText] = useState(id);
  useEffect(() => setText(id), [id]);
  /** @param {Event} event */
  const submit = (event) => {
    event.preventDefault();
    setParams({ id: text.trim() });
  };
  return html`
    <form class="find" role="search" onSubmit=${submit}>
      <label class="search">
        <${Icon} name="search" />
        <span class="hidden">Id of a message</span>
        <input
          type="search"
          data-search
          placeholder="Id of a message"
          autocomplete="off"
          spellcheck=${false}
          value=${text}
          onInput=${(/** @type {any} */ event) => setText(event.target.value)}
        />
      </label>
      <button type="submit" class="button primary" disabled=${text.trim() === ""}>Find</button>
    </form>
  `;
}

/**
 * One search, in as many requests as it takes, each a bounded amount of work for the server. It can be stopped, and goes
 * on from where it came.
 * @param {{ id: string }} props
 */
function Search({ id }) {
  const [found, setFound] = useState(/** @type {(Message & { queue: string }) | null} */ (null));
  const [problem, setProblem] = useState("");
  const [missing, setMissing] = useState("");
  const [progress, setProgress] = useState({ lookedAt: 0, available: 0, cursor: "" });
  const [running, setRunning] = useState(true);
  useEffect(() => {
    if (!running) return undefined;
    const ending = new AbortController();
    search(id, progress, ending.signal, setProgress)
      .then(setFound)
      .catch((error) => {
        if (ending.signal.aborted) return;
        if (error.code === "message_not_found") setMissing(sentence(error));
        else setProblem(sentence(error));
      })
      .finally(() => !ending.signal.aborted && setRunning(false));
    return () => ending.abort();
  }, [running]);
  const { lookedAt, available, cursor } = progress;
  const goOn = () => {
    setProblem("");
    setRunning(true);
  };
  if (found) return html`<${Found} message=${found} />`;
  if (missing) return html`<div class="empty" role="status"><p>${missing}.</p><p>It may have been acked, purged or deleted.</p></div>`;
  return html`
    <section class="card roomy stack">
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      <p role="status">
        ${available > 0 ? `${count(lookedAt)} of ${counted(available, "message")} looked at` : running ? "Looking for it" : ""}
        ${running ? " …" : available > 0 ? "; it was not among them." : ""}
      </p>
      ${running && available > 0 && html`<progress max=${available} value=${Math.min(lookedAt, available)} aria-label="How far the search came"></progress>`}
      <footer class="dialog-footer">
        <${CopyCurl} request=${requests.find(id, cursor)} />
        ${running && html`<button type="button" class="button" onClick=${() => setRunning(false)}>Stop</button>`}
        ${!running && (cursor || problem) && html`<button type="button" class="button primary" onClick=${goOn}>${cursor ? "Go on" : "Again"}</button>`}
      </footer>
    </section>
  `;
}

/**
 * @param {string} id
 * @param {{ lookedAt: number, available: number, cursor: string }} from Where to begin.
 * @param {AbortSignal} signal
 * @param {(progress: { lookedAt: number, available: number, cursor: string }) => void} tell
 */
async function search(id, from, signal, tell) {
  let { lookedAt, cursor } = from;
  for (;;) {
    const answer = await send(requests.find(id, cursor), { signal });
    if (answer.state !== null) return answer;
    lookedAt += answer.looked_at;
    cursor = answer.cursor;
    tell({ lookedAt, available: answer.available, cursor });
  }
}

/** @param {{ message: Message & { queue: string } }} props */
const Found = ({ message }) => html`
  <section class="card roomy stack" aria-label="The message">
    <p class="object wrapping">
      <code>${message.id}</code><${Copy} compact text=${() => message.id} label="Copy the id" />
      <span>in <a href=${link("queue", { name: message.queue, tab: TABS[message.state ?? ""] ?? "" })}><bdi>${message.queue}</bdi></a></span>
    </p>
    <${MessageFacts} message=${message} />
    <footer class="dialog-footer"><${CopyCurl} request=${requests.find(message.id, "")} /></footer>
  </section>
`;
