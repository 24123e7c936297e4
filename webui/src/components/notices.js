/** Short sentences about what was done, in a corner for some seconds. */

import { html } from "../html.js";
import { dismiss, notices } from "../store.js";
import { Icon } from "./icon.js";

export const Notices = () => html`
  <div class="notices" role="status" aria-live="polite">
    ${notices.value.map(
      ({ id, text, bad }) => html`
        <div key=${id} class="notice ${bad ? "bad" : ""}">
          <${Icon} name=${bad ? "warn" : "good"} />
          <p>${text}</p>
          <button type="button" class="button quiet square" aria-label="Dismiss" onClick=${() => dismiss(id)}>
            <${Icon} name="close" />
          </button>
        </div>
      `,
    )}
  </div>
`;
