/** The audit: who created, changed, purged or deleted what, the newest first. */

import { useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { Dialog } from "../components/dialog.js";
import { Pager, usePages } from "../components/pages.js";
import { Problem } from "../components/problem.js";
import { Instant } from "../components/time.js";
import { useAnswer } from "../components/use_answer.js";
import { counted } from "../format.js";
import { html } from "../html.js";
import { link } from "../router.js";

/** @typedef {import("../types.js").AuditRecord} AuditRecord */

const LIMIT = 50;
/** @type {Record<string, string>} */
const DID = {
  create_queue: "created",
  update_queue: "changed",
  purge_queue: "purged",
  delete_queue: "deleted",
  purge_all: "purged all queues",
  delete_all: "deleted all queues",
  requeue_dead_letters: "requeued dead letters of",
  purge_dead_letters: "purged dead letters of",
  force_unlock: "ended locks of",
  restore: "put back from the trash",
  erase: "erased from the trash",
};

export function AuditScreen() {
  const pages = usePages("audit");
  const request = requests.audit({ limit: LIMIT, cursor: pages.cursor });
  const { data, error } = useAnswer(request, 2_000, true);
  const [open, setOpen] = useState(/** @type {AuditRecord | null} */ (null));
  /** @type {AuditRecord[]} */
  const records = data?.records ?? [];
  return html`
    <section class="stack" aria-labelledby="title">
      <div class="toolbar flush"><h1 id="title">Audit</h1></div>
      <${Problem} error=${error} />
      ${data?.enabled === false &&
      html`<div class="empty"><p>This server keeps no audit.</p><p>Its operator can name a file for it: QRUSTY_AUDIT_FILE.</p></div>`}
      ${data?.enabled && records.length === 0 && html`<div class="empty"><p>Nothing was created, changed, purged or deleted yet.</p></div>`}
      ${data?.lost > 0 && html`<p class="problem" role="alert">${counted(data.lost, "record")} could not be written, and will not be.</p>`}
      ${data?.failing && html`<p class="problem" role="alert">The file can't be written at present. Records wait for it.</p>`}
      ${records.length > 0 &&
      html`
        <div class="scroll">
          <table class="table">
            <thead>
              <tr>
                <th scope="col">When</th>
                <th scope="col" class="wide">Who</th>
                <th scope="col">What</th>
                <th scope="col" class="wide">Queue</th>
                <th scope="col"><span class="hidden">Details</span></th>
              </tr>
            </thead>
            <tbody>
              ${records.map(
                (record) => html`
                  <tr key=${record.number}>
                    <td><${Instant} ms=${Date.parse(record.time)} /></td>
                    <td class="wide"><bdi>${record.who}</bdi></td>
                    <td>${DID[record.operation] ?? record.operation}${record.outcome !== "done" && ` (${record.outcome})`}</td>
                    <td class="wide">${record.queue !== null && html`<a href=${link("queue", { name: record.queue })}><bdi>${record.queue}</bdi></a>`}</td>
                    <td class="number">
                      <button type="button" class="button small" aria-label=${`Details of ${record.number}`} onClick=${() => setOpen(record)}>Details</button>
                    </td>
                  </tr>
                `,
              )}
            </tbody>
          </table>
        </div>
        <${Pager} pages=${pages} further=${data.cursor}><${CopyCurl} request=${request} /><//>
      `}
      ${open &&
      html`
        <${Dialog} title=${`Record ${open.number}`} onClose=${() => setOpen(null)}>
          <div class="payload"><pre tabindex="0">${JSON.stringify(open, null, 2)}</pre></div>
        <//>
      `}
    </section>
  `;
}
