/** Short sentences about what was done, in a corner for some seconds. What can be undone stays as long as it can. */

import { useState } from "../../vendor/hooks.js";
import { duration } from "../format.js";
import { html } from "../html.js";
import { dismiss, notices, notify, readOnly, serverNow } from "../store.js";
import { Icon } from "./icon.js";
import { putBack } from "./put_back.js";

export const Notices = () => html`
  <div class="notices" role="status" aria-live="polite">
    ${notices.value.map(
      ({ id, text, bad, undo }) => html`
        <div key=${id} class="notice ${bad ? "bad" : ""}">
          <${Icon} name=${bad ? "warn" : "good"} />
          <p>${text}</p>
          ${undo && html`<${PutBack} undo=${undo} onDone=${() => dismiss(id)} />`}
          <button type="button" class="button quiet square" aria-label="Dismiss" onClick=${() => dismiss(id)}>
            <${Icon} name="close" />
          </button>
        </div>
      `,
    )}
  </div>
`;

/** @param {{ undo: import("../store.js").Undo, onDone: () => void }} props */
function PutBack({ undo, onDone }) {
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    const { problem } = await putBack(undo.id);
    onDone();
    if (problem) notify(`${problem} See the trash on the screen of queues.`, true);
  };
  return html`
    <button type="button" class="button" disabled=${busy || readOnly.value} onClick=${run}>Put back</button>
    <small class="quiet" aria-hidden="true">${duration(Math.max(0, undo.expires_at - serverNow.value))}</small>
  `;
}
