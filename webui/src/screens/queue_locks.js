/** The locked messages of a queue: who holds them, since when and until when; and taking them back. */

import { useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { Confirm } from "../components/confirm.js";
import { CopyCurl } from "../components/copy.js";
import { Export } from "../components/export.js";
import { MessageDialog, millis, priorityOf } from "../components/message.js";
import { Pager, usePages } from "../components/pages.js";
import { Problem } from "../components/problem.js";
import { Time } from "../components/time.js";
import { useAnswer } from "../components/use_answer.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";
import { readOnly } from "../store.js";

/** @typedef {import("../types.js").Message} Message */
/** @typedef {{ which: Record<string, unknown>, count: number, what: string }} Release */

const LIMIT = 50;

/** @param {{ row: import("../types.js").QueueRow, refresh: () => void }} props */
export function QueueLocks({ row, refresh }) {
  const pages = usePages(row.name);
  const request = requests.locks(row.name, { limit: LIMIT, cursor: pages.cursor });
  const { data, error, refresh: again } = useAnswer(request, 1_000, true);
  const [open, setOpen] = useState(/** @type {Message | null} */ (null));
  const [release, setRelease] = useState(/** @type {Release | null} */ (null));
  /** @type {Message[] | null} */
  const locks = data?.locks ?? null;
  const done = () => {
    again();
    refresh();
  };
  return html`
    <${Problem} error=${error} />
    ${locks?.length === 0 && html`<div class="empty"><p>No message is locked.</p></div>`}
    ${locks !== null &&
    locks.length > 0 &&
    html`
      <div class="scroll">
        <table class="table">
          <thead>
            <tr>
              <th scope="col" class="wide">Held by</th>
              <th scope="col" class="secondary">Since</th>
              <th scope="col">Until</th>
              <th scope="col" class="number secondary">Deliveries</th>
              <th scope="col" class="number secondary">Priority</th>
              <th scope="col">Id</th>
              <th scope="col"><span class="hidden">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            ${locks.map(
              (lock) => html`
                <tr key=${lock.id}>
                  <td class="wide"><bdi>${lock.consumer}</bdi></td>
                  <td class="secondary">${lock.locked_since ? html`<${Time} ms=${lock.locked_since} />` : "–"}</td>
                  <td><${Time} ms=${millis(lock.lock_until)} /></td>
                  <td class="number secondary">${count(lock.deliveries ?? 0)}</td>
                  <td class="number secondary"><bdi>${priorityOf(lock)}</bdi></td>
                  <td>
                    <button type="button" class="row-button" onClick=${() => setOpen(lock)}><code>${lock.id.slice(-8)}</code></button>
                  </td>
                  <td class="number">
                    <button
                      type="button"
                      class="button small"
                      disabled=${readOnly.value}
                      onClick=${() => setRelease({ which: { ids: [lock.id] }, count: 1, what: `message ${lock.id.slice(-8)}` })}
                    >
                      Release …
                    </button>
                  </td>
                </tr>
              `,
            )}
          </tbody>
        </table>
      </div>
      <${Pager} pages=${pages} further=${data.cursor}>
        <button
          type="button"
          class="button"
          disabled=${readOnly.value}
          onClick=${() => setRelease({ which: { all: true }, count: row.locked, what: "every locked message of this queue" })}
        >
          Release all …
        </button>
        <${Export} request=${requests.messages(row.name, { state: "locked" })} name=${`${row.name} locked`} />
        <${CopyCurl} request=${request} />
      <//>
    `}
    ${open && html`<${MessageDialog} message=${open} request=${requests.message(row.name, open.id)} rate=${row.ack_rate_per_sec} onClose=${() => setOpen(null)} />`}
    ${release &&
    html`
      <${Confirm}
        title="Release locks"
        action=${`Release ${counted(release.count, "message")}`}
        request=${requests.forceUnlock(row.name, release.which)}
        done=${(/** @type {any} */ answer) => `${counted(answer.unlocked, "message")} released`}
        onClose=${() => setRelease(null)}
        onDone=${done}
      >
        <p>This takes back ${release.what}: available again at once, its delivery not counted.</p>
        <p class="problem">The consumer may still be at work on it. It is not told, and its ack will be refused.</p>
      <//>
    `}
  `;
}
