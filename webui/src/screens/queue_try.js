/** Consume, ack and nack by hand, as a worker would. The page is a consumer of its own name. */

import { useState } from "../../vendor/hooks.js";
import { requests, send } from "../api.js";
import { CopyCurl } from "../components/copy.js";
import { Payload } from "../components/payload.js";
import { Time } from "../components/time.js";
import { millis, priorityOf } from "../components/message.js";
import { count } from "../format.js";
import { html } from "../html.js";
import { notify, readOnly, sentence } from "../store.js";

/** @typedef {import("../types.js").Message} Message */

const CONSUMER = `web-ui-${crypto.getRandomValues(new Uint32Array(1))[0]?.toString(36)}`;

/** What the page holds of each queue; kept while tabs change. @type {Map<string, Message[]>} */
const held = new Map();

/** @param {{ row: import("../types.js").QueueRow, refresh: () => void }} props */
export function TryOut({ row, refresh }) {
  const [seconds, setSeconds] = useState("60");
  const [reason, setReason] = useState("");
  const [messages, setMessages] = useState(held.get(row.name) ?? []);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const length = /^\d{1,9}$/.test(seconds) ? Number(seconds) : 60;
  const request = requests.consume(row.name, CONSUMER, length);

  /** @param {Message[]} now */
  function keep(now) {
    held.set(row.name, now);
    setMessages(now);
  }
  /** @param {() => Promise<void>} action */
  async function run(action) {
    setBusy(true);
    setProblem("");
    try {
      await action();
      refresh();
    } catch (error) {
      setProblem(sentence(error));
    } finally {
      setBusy(false);
    }
  }
  const consume = () =>
    run(async () => {
      const message = await send(request);
      if (message === null) notify("No message is available");
      else keep([{ lock_until: Date.now() + 1000 * length, ...message }, ...messages]);
    });
  /** @param {Message} message @param {import("../curl.js").Request} settle @param {string} done */
  const settle = (message, settle, done) =>
    run(async () => {
      try {
        await send(settle);
        notify(done);
      } finally {
        keep(messages.filter((each) => each.id !== message.id));
      }
    });

  return html`
    <div class="try stack">
      <form
        class="toolbar flush"
        onSubmit=${(/** @type {Event} */ event) => {
          event.preventDefault();
          void consume();
        }}
      >
        <label class="inline">Lock for <input class="short" inputmode="numeric" value=${seconds} onInput=${(/** @type {any} */ event) => setSeconds(event.target.value)} /> s</label>
        <button type="submit" class="button primary" disabled=${busy || readOnly.value}>Consume one</button>
        <span class="quiet">as <code>${CONSUMER}</code></span>
        <span class="toolbar-end"><${CopyCurl} request=${request} /></span>
      </form>
      ${problem && html`<p class="problem" role="alert">${problem}</p>`}
      ${messages.length === 0 && html`<p class="quiet">This page holds no message. Consuming one locks it, and counts as a delivery.</p>`}
      ${messages.map(
        (message) => html`
          <article key=${message.id} class="held">
            <header class="toolbar flush">
              <code>${message.id}</code>
              <span class="quiet">
                priority <bdi>${priorityOf(message)}</bdi>, delivery ${count(message.retry_count ?? message.deliveries ?? 1)}, locked
                ${" "}until <${Time} ms=${millis(message.lock_until)} />
              </span>
              <span class="toolbar-end">
                <button type="button" class="button primary" disabled=${busy} onClick=${() => settle(message, requests.ack(row.name, message.id, CONSUMER), "Acked: it is gone for good")}>
                  Ack
                </button>
                <button type="button" class="button" disabled=${busy} onClick=${() => settle(message, requests.nack(row.name, message.id, CONSUMER, reason), "Nacked")}>
                  Nack
                </button>
              </span>
            </header>
            <${Payload} text=${message.payload ?? ""} id=${message.id} />
          </article>
        `,
      )}
      ${messages.length > 0 &&
      html`
        <label class="inline">Reason of a nack <input maxlength="256" value=${reason} onInput=${(/** @type {any} */ event) => setReason(event.target.value)} /></label>
      `}
    </div>
  `;
}
