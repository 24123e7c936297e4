/** What purges and deletes have kept aside: put it back, or erase it. */

import { useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { counted, duration } from "../format.js";
import { html } from "../html.js";
import { notify, readOnly, sentence, serverNow } from "../store.js";
import { CopyCurl } from "./copy.js";
import { Dialog } from "./dialog.js";
import { Problem } from "./problem.js";
import { putBack } from "./put_back.js";
import { Time } from "./time.js";
import { useAnswer } from "./use_answer.js";

/** @typedef {import("../types.js").Kept} Kept */

/** @param {{ onClose: () => void }} props */
export function Trash({ onClose }) {
  const request = requests.trash();
  const { data, error, refresh } = useAnswer(request, 2_000);
  /** @type {Kept[] | null} */
  const kept = data?.trash ?? null;
  return html`
    <${Dialog} title="Trash" onClose=${onClose} wide>
      <${Problem} error=${error} />
      ${kept?.length === 0 && html`<p class="quiet">Nothing is kept aside.</p>`}
      <ul class="trash">
        ${kept?.map((each) => html`<${Item} key=${each.id} kept=${each} refresh=${refresh} />`)}
      </ul>
      <footer class="dialog-footer">
        <${CopyCurl} request=${request} />
        <button type="button" class="button" onClick=${onClose}>Close</button>
      </footer>
    <//>
  `;
}

/** @param {{ kept: Kept, refresh: () => void }} props */
function Item({ kept, refresh }) {
  const [problem, setProblem] = useState("");
  const [named, setNamed] = useState(false);
  const [name, setName] = useState("");
  const [busy, setBusy] = useState(false);
  const [sure, setSure] = useState(false);
  const messages = counted(kept.messages, "message") + (kept.dead_letters ? ` and ${counted(kept.dead_letters, "dead letter")}` : "");
  /** @param {Event} event */
  async function restore(event) {
    event.preventDefault();
    setBusy(true);
    const outcome = await putBack(kept.id, named && name ? name : undefined);
    setProblem(outcome.problem);
    setNamed(outcome.named);
    setBusy(false);
    refresh();
  }
  async function erase() {
    if (!sure) return setSure(true);
    setBusy(true);
    try {
      notify(`${counted((await send(requests.erase(kept.id))).erased_messages, "message")} erased`);
    } catch (error) {
      setProblem(sentence(error));
    }
    setBusy(false);
    refresh();
  }
  const idle = !busy && !readOnly.value;
  return html`
    <li>
      <form class="toolbar" onSubmit=${restore}>
        <p>
          <strong><bdi>${kept.queue}</bdi></strong>, ${kept.what} ${" "}<${Time} ms=${kept.kept_at} />: ${messages}.
          <small class="quiet"> Erased in ${duration(Math.max(0, kept.expires_at - serverNow.value))}</small>
        </p>
        <span class="toolbar-end">
          ${named &&
          html`
            <input
              aria-label="As a new queue named"
              placeholder="As a new queue named"
              value=${name}
              onInput=${(/** @type {any} */ event) => setName(event.target.value)}
            />
          `}
          <button type="submit" class="button" disabled=${!idle}>Put back</button>
          <button type="button" class="button ${sure ? "danger" : ""}" disabled=${!idle} onClick=${erase}>${sure ? `Erase ${messages} for good` : "Erase …"}</button>
        </span>
      </form>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    </li>
  `;
}
