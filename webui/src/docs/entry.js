/** One operation or frame in full: parameters, fields, an example, the answers, every error, and the form to try it. */

import { Copy } from "../components/copy.js";
import { html } from "../html.js";
import { takes } from "./fields.js";
import { pretty } from "./request.js";
import { nameOf } from "./spec.js";
import { Try } from "./try.js";

/** @typedef {import("./fields.js").Row} Row */

/** Text in which backticks mark code. @param {{ text: string }} props */
export const Words = ({ text }) =>
  html`${text.split("`").map((part, index) => (index % 2 ? html`<code>${part}</code>` : part))}`;

/** @param {{ method: string }} props */
export const Method = ({ method }) => html`<span class="docs-method ${method.toLowerCase()}">${method}</span>`;

/** @param {{ entry: import("./spec.js").Operation }} props */
export function OperationView({ entry }) {
  const { parameters, body, answer, refusals } = entry;
  const given = parameters.map((each) => ({
    name: each.name,
    required: each.required ?? false,
    takes: takes({}, each.schema),
    meaning: `${each.description ?? ""}${each.in === "path" ? " In the path." : ""}`,
  }));
  return html`
    <article class="stack large docs-entry">
      <header class="stack">
        <h1><${Method} method=${entry.method} /> <span class="docs-path">${entry.path}</span></h1>
        <p class="docs-lead"><${Words} text=${entry.summary} /></p>
        ${entry.notes && html`<p><${Words} text=${entry.notes} /></p>`}
      </header>
      <div class="docs-columns">
        <div class="stack large">
          ${given.length > 0 && html`<${Rows} title="Parameters" rows=${given} />`}
          ${body && html`<${Rows} title="Body" rows=${body.rows} note=${body.oneOf.length > 0 ? `Exactly one of ${body.oneOf.map((each) => `\`${each}\``).join(", ")} must be given.` : ""} />`}
          ${answer
            ? html`
                <${Rows} title="Response" rows=${answer.rows} note=${answer.nullable ? "Or `null`." : ""} answer />
                <${Example} title="Example of a response" value=${answer.example} />
              `
            : html`<section class="stack"><h2>Response</h2><p>200 with an empty body.</p></section>`}
          <${Refusals} refusals=${refusals} />
        </div>
        <${Try} key=${entry.id} operation=${entry} />
      </div>
    </article>
  `;
}

/** @param {{ entry: import("./spec.js").Frame }} props */
export function FrameView({ entry }) {
  return html`
    <article class="stack large docs-entry">
      <header class="stack">
        <h1><${Method} method="WS" /> <span class="docs-path">${nameOf(entry)}</span></h1>
        <p class="docs-lead">${entry.sent ? "The server sends this by itself." : "A client sends this as a text frame over /ws."}</p>
      </header>
      ${entry.parts.map(
        (part) => html`
          <section class="stack" aria-label=${part.title}>
            <h2>${part.title}</h2>
            <p><${Words} text=${part.summary} /></p>
            <${Rows} title=${`Fields of ${part.title}`} rows=${part.rows} hidden />
            ${part.example !== undefined && html`<${Example} title=${`Example of ${part.title}`} value=${part.example} />`}
          </section>
        `,
      )}
    </article>
  `;
}

/** @param {{ title: string, rows: Row[], note?: string, hidden?: boolean, answer?: boolean }} props */
function Rows({ title, rows, note = "", hidden = false, answer = false }) {
  return html`
    <section class="stack">
      <h2 class=${hidden ? "hidden" : ""}>${title}</h2>
      ${note && html`<p><${Words} text=${note} /></p>`}
      ${rows.length > 0 &&
      html`
        <dl class="docs-rows">
          ${rows.map(
            (row) => html`
              <div key=${row.name}>
                <dt>
                  <code>${row.name}</code> ${row.required && !answer && html`<strong class="tag">required</strong>`}
                  ${" "}<span class="quiet">${row.takes}</span>
                </dt>
                ${row.meaning && html`<dd><${Words} text=${row.meaning} /></dd>`}
              </div>
            `,
          )}
        </dl>
      `}
    </section>
  `;
}

/** @param {{ title: string, value: unknown }} props */
function Example({ title, value }) {
  const text = pretty(value);
  return html`
    <div class="docs-example">
      <${Copy} text=${() => text} label=${`Copy: ${title}`} compact />
      <pre class="docs-code" tabindex="0" role="region" aria-label=${title}>${text}</pre>
    </div>
  `;
}

/** @param {{ refusals: import("./spec.js").Refusal[] }} props */
const Refusals = ({ refusals }) => html`
  <section class="stack">
    <h2>Errors</h2>
    <p>Each has a <code>code</code> for programs, and a sentence in <code>error</code> for people.</p>
    <dl class="docs-rows">
      ${refusals.map(
        ({ status, code, meaning }) => html`
          <div key=${code}><dt><strong class="tabular">${status}</strong> <code>${code}</code></dt><dd><${Words} text=${meaning} /></dd></div>
        `,
      )}
    </dl>
  </section>
`;
