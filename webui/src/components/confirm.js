/**
 * Asks before something that can't be undone, or that touches many messages.
 *
 * Rule: the dialog names the object and the count, and its button says what happens. What can't be undone needs the
 * queue's name typed, and then the focus is on that field; otherwise it is on Cancel.
 */

import { useEffect, useRef, useState } from "../../vendor/hooks.js";
import { send } from "../api.js";
import { html } from "../html.js";
import { notify, readOnly, sentence } from "../store.js";
import { CopyCurl } from "./copy.js";
import { Dialog } from "./dialog.js";

/** @typedef {import("../curl.js").Request} Request */

/**
 * @param {object} props
 * @param {string} props.title
 * @param {any} props.children What will happen, in a sentence or two.
 * @param {string} props.action The text of the button: "Purge 1,204 messages".
 * @param {Request} props.request What the button sends.
 * @param {(answer: any) => string} props.done The sentence shown afterwards.
 * @param {() => void} props.onClose
 * @param {() => void} [props.onDone]
 * @param {string} [props.typed] What has to be typed; without it nothing has.
 * @param {boolean} [props.danger]
 * @param {boolean} [props.ready] False while it is not known yet what the button would do.
 */
export function Confirm({ title, children, action, request, done, onClose, onDone, typed, danger = true, ready: known = true }) {
  const [text, setText] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const first = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => first.current?.focus(), []);
  const ready = known && (typed === undefined || text === typed) && !busy && !readOnly.value;

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    if (!ready) return;
    setBusy(true);
    setProblem("");
    try {
      const answer = await send(request);
      notify(done(answer), false, answer?.undo);
      onDone?.();
      onClose();
    } catch (error) {
      setProblem(sentence(error));
      setBusy(false);
    }
  }

  return html`
    <${Dialog} title=${title} onClose=${onClose}>
      <form onSubmit=${submit} class="stack">
        <div class="stack">${children}</div>
        ${typed !== undefined &&
        html`
          <label class="field">
            <span>Type <bdi class="typed">${typed}</bdi> to confirm</span>
            <input
              ref=${first}
              value=${text}
              autocomplete="off"
              spellcheck=${false}
              onInput=${(/** @type {any} */ event) => setText(event.target.value)}
            />
          </label>
        `}
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        ${readOnly.value && html`<p class="problem">This server is read-only.</p>`}
        <footer class="dialog-footer">
          <${CopyCurl} request=${request} />
          <button type="button" class="button" ref=${typed === undefined ? first : null} onClick=${onClose}>Cancel</button>
          <button type="submit" class="button ${danger ? "danger" : "primary"}" disabled=${!ready}>${action}</button>
        </footer>
      </form>
    <//>
  `;
}
