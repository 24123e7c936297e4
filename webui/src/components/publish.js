/** Publishes to one queue: the form knows its kind of priority, and takes the whole range of 64 bits. */

import { useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { html } from "../html.js";
import { notify, readOnly, sentence } from "../store.js";
import { CopyCurl } from "./copy.js";
import { Dialog } from "./dialog.js";

const MOST = 2n ** 64n - 1n;

/** @param {string} text @returns {bigint | null} */
function whole(text) {
  if (!/^\d{1,20}$/.test(text.trim())) return null;
  const value = BigInt(text.trim());
  return value <= MOST ? value : null;
}

/** @param {{ queue: import("../types.js").QueueRow, onClose: () => void, onDone: () => void }} props */
export function Publish({ queue, onClose, onDone }) {
  const { ordering, priority_kind: kind } = queue.config;
  const [priority, setPriority] = useState(kind === "Text" ? "m" : "0");
  const [payload, setPayload] = useState("");
  const [retries, setRetries] = useState("3");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);

  const value = kind === "Text" ? priority || null : whole(priority);
  const most = whole(retries);
  const request = requests.publish({
    queue: queue.name,
    priority: value ?? 0,
    payload,
    ...(most !== null && retries !== "3" && { max_retries: most }),
  });

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    if (value === null) return setProblem(kind === "Text" ? "The priority is missing." : "The priority is a number from 0 to 18,446,744,073,709,551,615.");
    if (most === null) return setProblem("The deliveries are a number.");
    setBusy(true);
    setProblem("");
    try {
      const { id } = await send(request);
      notify(`Published ${id}`);
      onDone();
    } catch (error) {
      setProblem(sentence(error));
    } finally {
      setBusy(false);
    }
  }

  return html`
    <${Dialog} title="Publish" onClose=${onClose}>
      <form class="stack" onSubmit=${submit}>
        <p class="object"><bdi>${queue.name}</bdi></p>
        <div class="fields">
          ${ordering !== "Fifo" &&
          html`
            <label class="field">
              <span>Priority <small>${kind === "Text" ? "text" : "0 to 2⁶⁴ − 1"}</small></span>
              <input
                name="priority"
                value=${priority}
                autocomplete="off"
                inputmode=${kind === "Text" ? "text" : "numeric"}
                onInput=${(/** @type {any} */ event) => setPriority(event.target.value)}
              />
            </label>
          `}
          <label class="field">
            <span>Deliveries <small>before it is a dead letter</small></span>
            <input name="retries" value=${retries} inputmode="numeric" onInput=${(/** @type {any} */ event) => setRetries(event.target.value)} />
          </label>
        </div>
        <label class="field">
          <span>Payload</span>
          <textarea
            name="payload"
            dir="auto"
            rows="8"
            spellcheck=${false}
            autofocus
            value=${payload}
            onInput=${(/** @type {any} */ event) => setPayload(event.target.value)}
          ></textarea>
        </label>
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        <footer class="dialog-footer">
          <${CopyCurl} request=${request} />
          <button type="button" class="button" onClick=${onClose}>Close</button>
          <button type="submit" class="button primary" disabled=${busy || readOnly.value}>Publish</button>
        </footer>
      </form>
    <//>
  `;
}
