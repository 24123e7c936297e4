/** How many messages there are of each priority. */

import { requests } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { Problem } from "../components/problem.js";
import { useAnswer } from "../components/use_answer.js";
import { count, counted } from "../format.js";
import { html } from "../html.js";

/** @param {{ row: import("../types.js").QueueRow }} props */
export function QueuePriorities({ row }) {
  const request = requests.priorities(row.name);
  const { data, error } = useAnswer(request, 5_000, true);
  /** @type {{ priority: import("../types.js").Priority, priority_text?: string, count: number }[]} */
  const bars = data?.priorities ?? [];
  const most = Math.max(1, ...bars.map((bar) => bar.count));
  return html`
    <${Problem} error=${error} />
    ${data && bars.length === 0 && html`<div class="empty"><p>No message is available.</p></div>`}
    ${bars.length > 0 &&
    html`
      <table class="table bars">
        <thead>
          <tr><th scope="col" class="number">Priority</th><th scope="col" class="wide"><span class="hidden">Share</span></th><th scope="col" class="number">Messages</th></tr>
        </thead>
        <tbody>
          ${bars.map(
            (bar) => html`
              <tr key=${String(bar.priority)}>
                <th scope="row" class="number"><bdi>${bar.priority_text ?? String(bar.priority)}</bdi></th>
                <td class="wide">
                  <svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
                    <rect width=${(100 * bar.count) / most} height="10" />
                  </svg>
                </td>
                <td class="number">${count(bar.count)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
      <div class="pager">
        <span class="quiet">
          ${data.sampled && `A sample of ${count(data.looked_at)} messages, not a count of all. `}${data.others > 0 && `${counted(data.others, "message")} of other priorities.`}
        </span>
        <${CopyCurl} request=${request} />
      </div>
    `}
  `;
}
