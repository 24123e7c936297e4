/** The next messages of a queue, in order. Looking locks nothing and counts nothing. */

import { useState } from "../../vendor/hooks.js";
import { requests } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { Export } from "../components/export.js";
import { MessageDialog, PayloadLine, millis, priorityOf } from "../components/message.js";
import { Pager, usePages } from "../components/pages.js";
import { Problem } from "../components/problem.js";
import { Time } from "../components/time.js";
import { useAnswer } from "../components/use_answer.js";
import { count } from "../format.js";
import { html } from "../html.js";

/** @typedef {import("../types.js").Message} Message */

const LIMIT = 50;

/** @param {{ row: import("../types.js").QueueRow }} props */
export function QueueMessages({ row }) {
  const pages = usePages(row.name);
  const request = requests.messages(row.name, { state: "available", limit: LIMIT, cursor: pages.cursor });
  const { data, error } = useAnswer(request, 3_000, true);
  const [open, setOpen] = useState(/** @type {Message | null} */ (null));
  /** @type {Message[] | null} */
  const messages = data?.messages ?? null;
  return html`
    <${Problem} error=${error} />
    ${messages?.length === 0 && html`<div class="empty"><p>No message is available.</p></div>`}
    ${messages !== null &&
    messages.length > 0 &&
    html`
      <div class="scroll">
        <table class="table">
          <thead>
            <tr>
              <th scope="col" class="number">Priority</th>
              <th scope="col" class="wide">Payload</th>
              <th scope="col">Published</th>
              <th scope="col" class="number secondary">Deliveries</th>
              <th scope="col" class="secondary">Id</th>
            </tr>
          </thead>
          <tbody>
            ${messages.map(
              (message) => html`
                <tr key=${message.id}>
                  <td class="number"><bdi>${priorityOf(message)}</bdi></td>
                  <td class="wide">
                    <button type="button" class="row-button" onClick=${() => setOpen(message)}><${PayloadLine} message=${message} /></button>
                  </td>
                  <td>${message.created_at !== undefined && html`<${Time} ms=${millis(message.created_at)} />`}</td>
                  <td class="number secondary">${count(message.deliveries ?? message.retry_count ?? 0)}</td>
                  <td class="secondary"><code>${message.id.slice(-8)}</code></td>
                </tr>
              `,
            )}
          </tbody>
        </table>
      </div>
    `}
    ${messages !== null && html`<${Pager} pages=${pages} further=${data.cursor}>
      <${Export} request=${request} name=${`${row.name} available`} /><${CopyCurl} request=${request} />
    <//>`}
    ${open && html`<${MessageDialog} message=${open} request=${requests.message(row.name, open.id)} rate=${row.ack_rate_per_sec} onClose=${() => setOpen(null)} />`}
  `;
}
