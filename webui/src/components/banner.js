/** What concerns every screen, above all of them: the server is lost, starting, out of memory, without its store. */

import { html } from "../html.js";
import { duration } from "../format.js";
import { answeredAt, lost, now, readOnly, server } from "../store.js";
import { Icon } from "./icon.js";

/** @param {{ kind: "bad" | "warn", children?: any }} props */
const Bar = ({ kind, children }) => html`
  <div class="banner ${kind}" role=${kind === "bad" ? "alert" : "status"}><${Icon} name="warn" /><p>${children}</p></div>
`;

export function Banners() {
  const info = server.value;
  if (lost.value) {
    return html`
      <${Bar} kind="bad">
        <strong>The server does not answer.</strong> What you see is from ${duration(now.value - answeredAt.value)} ago.
        This page keeps trying.
      <//>
    `;
  }
  if (!info) return null;
  return html`
    ${info.state === "starting" &&
    html`<${Bar} kind="warn"><strong>The server is starting.</strong> It reads its store; changes are refused until then.<//>`}
    ${info.state === "stopping" && html`<${Bar} kind="warn"><strong>The server is stopping.</strong> It finishes what is in hand.<//>`}
    ${info.state === "storage_fault" &&
    html`<${Bar} kind="bad"><strong>The store does not work.</strong> ${info.message}<//>`}
    ${info.memory.level === "critical" &&
    html`<${Bar} kind="bad"><strong>Memory is critical.</strong> Publishes are refused; consumers go on.<//>`}
    ${info.memory.level === "warning" &&
    html`<${Bar} kind="warn"><strong>Memory is short.</strong> Caches shrink; nothing is refused yet.<//>`}
    ${readOnly.value && html`<p class="read-only" role="status"><${Icon} name="lock" />Read-only: this server refuses every change.</p>`}
  `;
}
