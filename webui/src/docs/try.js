/**
 * The form that sends an operation to this server, and what came back: status, headers, body, and the same as curl.
 *
 * Rule: the body is sent as it was typed, so that errors can be tried, too. What can't be undone has to be ticked first.
 */

import { useState } from "../../vendor/hooks.js";
import { curl, exchange } from "../api.js";
import { Copy } from "../components/copy.js";
import { Payload } from "../components/payload.js";
import { microseconds } from "../format.js";
import { html } from "../html.js";
import { readOnly, sentence, server } from "../store.js";
import { formOf, learn, pretty, remember, requestOf, token } from "./request.js";

/** @typedef {import("./spec.js").Operation} Operation */
/** @typedef {import("../api.js").Exchange} Exchange */

/** A consume may wait for a minute. */
const TIMEOUT_MS = 90_000;
/** By the name of an operation. */
const IS_FINAL = /delete|purge/;

/** @param {{ operation: Operation }} props */
export function Try({ operation }) {
  const [{ values, body }, setForm] = useState(() => formOf(operation));
  const [answer, setAnswer] = useState(/** @type {Exchange | null} */ (null));
  const [problem, setProblem] = useState("");
  const [stop, setStop] = useState(/** @type {AbortController | null} */ (null));
  const [sure, setSure] = useState(false);
  const final = IS_FINAL.test(operation.id);
  const request = requestOf(operation, values, body);

  /** @param {Record<string, string>} values @param {string} body */
  function change(values, body) {
    remember(operation, values, body);
    setForm({ values, body });
  }
  async function submit() {
    const controller = new AbortController();
    setStop(controller);
    setProblem("");
    try {
      const got = await exchange(request, { signal: controller.signal, timeout: TIMEOUT_MS });
      setAnswer(got);
      learn(got.text);
    } catch (error) {
      setAnswer(null);
      setProblem(controller.signal.aborted ? "Stopped. What the server did of it is not known." : sentence(error));
    } finally {
      setStop(null);
      setSure(false);
    }
  }

  return html`
    <section class="card" aria-labelledby="try">
      <header class="card-header">
        <h2 id="try">Try it</h2>
        ${server.value?.environment && html`<span class="quiet">on <bdi>${server.value.environment.name}</bdi></span>`}
      </header>
      <form
        class="roomy stack"
        onSubmit=${(/** @type {Event} */ event) => {
          event.preventDefault();
          void submit();
        }}
      >
        ${operation.parameters.length > 0 &&
        html`
          <div class="fields">
            ${operation.parameters.map((each) => html`<${Input} key=${each.name} parameter=${each} value=${values[each.name] ?? ""} change=${(/** @type {string} */ text) => change({ ...values, [each.name]: text }, body)} />`)}
          </div>
        `}
        ${operation.body &&
        html`
          <label class="field">
            <span>Body</span>
            <textarea
              spellcheck=${false}
              rows=${Math.min(16, body.split("\n").length + 1)}
              value=${body}
              onInput=${(/** @type {any} */ event) => change(values, event.target.value)}
            ></textarea>
          </label>
        `}
        ${(token.value || answer?.status === 401) &&
        html`
          <label class="field">
            <span>Token <small>kept until this page is closed</small></span>
            <input type="password" autocomplete="off" value=${token.value} onInput=${(/** @type {any} */ event) => (token.value = event.target.value.trim())} />
          </label>
        `}
        ${final &&
        html`
          <label class="choice">
            <input type="checkbox" required checked=${sure} onChange=${(/** @type {any} */ event) => setSure(event.target.checked)} />
            <span>This can’t be undone, and I mean it.</span>
          </label>
        `}
        <div class="toolbar flush">
          <button type="submit" class="button ${final ? "danger" : "primary"}" disabled=${stop !== null || (final && !sure)}>
            Send ${operation.method}
          </button>
          ${stop && html`<button type="button" class="button" onClick=${() => stop.abort()}>Stop</button>`}
          ${operation.body &&
          html`
            <button type="button" class="button quiet" onClick=${() => change(values, pretty(operation.body?.example))}>
              The example again
            </button>
          `}
          ${readOnly.value && operation.method !== "GET" && html`<span class="quiet">This server refuses every change.</span>`}
        </div>
      </form>
      <div class="roomy stack docs-curl">
        <div class="toolbar flush">
          <h3>The same with curl</h3>
          <span class="toolbar-end"><${Copy} text=${() => curl(request)} label="Copy" title="Copy the curl command" /></span>
        </div>
        <pre class="docs-code" tabindex="0" role="region" aria-label="curl command">${curl(request)}</pre>
      </div>
      <div role="status" aria-live="polite">
        ${problem && html`<p class="problem">${problem}</p>`}
        ${answer && html`<${Answer} answer=${answer} name=${operation.id} />`}
      </div>
    </section>
  `;
}

/** @param {{ parameter: import("./spec.js").Parameter, value: string, change: (text: string) => void }} props */
function Input({ parameter, value, change }) {
  const onInput = (/** @type {any} */ event) => change(event.target.value);
  const options = parameter.schema.enum;
  return html`
    <label class="field">
      <span><code>${parameter.name}</code>${!parameter.required && html` <small>optional</small>`}</span>
      ${options
        ? html`<select value=${value} onChange=${onInput}><option value="">–</option>${options.map((each) => html`<option value=${each}>${each}</option>`)}</select>`
        : html`<input value=${value} required=${parameter.required} spellcheck=${false} autocomplete="off" onInput=${onInput} />`}
    </label>
  `;
}

/** @param {{ answer: Exchange, name: string }} props */
function Answer({ answer, name }) {
  const { status, reason, headers, text, ms } = answer;
  const kind = status < 300 ? "good" : status < 500 ? "warn" : "bad";
  return html`
    <div class="roomy stack docs-answer">
      <p><strong class="pill ${kind}">${status}${reason && ` ${reason}`}</strong> <span class="quiet tabular">after ${microseconds(1000 * ms)}</span></p>
      <details>
        <summary>${headers.length} headers</summary>
        <pre class="docs-code" tabindex="0" role="region" aria-label="Headers of the response">${headers.map(([header, value]) => `${header}: ${value}`).join("\n")}</pre>
      </details>
      ${text === "" ? html`<p class="quiet">The body is empty.</p>` : html`<${Payload} key=${text} text=${text} id="${name}-response" label="Body of the response" />`}
    </div>
  `;
}
