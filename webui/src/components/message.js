/** One message in a dialog: what is known of it, and its payload. */

import { useEffect, useState } from "../../vendor/hooks.js";
import { send } from "../api.js";
import { count, counted, duration } from "../format.js";
import { html } from "../html.js";
import { sentence } from "../store.js";
import { Copy, CopyCurl } from "./copy.js";
import { Dialog } from "./dialog.js";
import { Payload } from "./payload.js";
import { Instant } from "./time.js";

/** @typedef {import("../types.js").Message} Message */

/** What a list has of a payload, in a line. @param {{ message: Message }} props */
export const PayloadLine = ({ message }) => {
  if (message.payload_error) return html`<span class="quiet">payload lost: ${message.payload_error}</span>`;
  const text = message.payload ?? message.payload_preview ?? "";
  return html`<bdi class="payload-line">${text.slice(0, 300).replaceAll(/\s+/g, " ").trim() || html`<i>${text ? "white space only" : "empty"}</i>`}</bdi>`;
};

/** @param {Message} message */
export const priorityOf = (message) => message.priority_text ?? String(message.priority ?? "–");

/** @param {number | string | null | undefined} time Milliseconds, or RFC 3339. */
export const millis = (time) => (typeof time === "string" ? Date.parse(time) : (time ?? null));

/** Reason of a dead letter -> in words. @type {Record<string, string>} */
export const REASONS = {
  nacked: "nacked by its consumer",
  expired: "its lock expired",
  connection_lost: "its consumer's connection was lost",
};

const GONE = "It is gone: acked, purged or moved since the list was read.";

/**
 * Get a message. A deep queue is searched in several requests, each a bounded amount of work for the server.
 * @param {import("../curl.js").Request} request
 * @param {AbortSignal} signal
 * @returns {Promise<Message>}
 */
async function find(request, signal) {
  let answer = await send(request, { signal });
  while (answer.state === null && answer.cursor) {
    answer = await send({ ...request, query: { ...request.query, cursor: answer.cursor } }, { signal });
  }
  return answer;
}

/**
 * @param {object} props
 * @param {number} [props.rate] Messages acked a second, to tell when its turn comes.
 * @param {Message} props.message As the list has it.
 * @param {import("../curl.js").Request} props.request Gets it in full.
 * @param {() => void} props.onClose
 * @param {any} [props.children] Buttons.
 */
export function MessageDialog({ message, request, rate = 0, onClose, children }) {
  const [full, setFull] = useState(message);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(true);
  useEffect(() => {
    const ending = new AbortController();
    find(request, ending.signal)
      .then((answer) => setFull({ ...message, ...answer }))
      .catch((error) => {
        if (!ending.signal.aborted) setProblem(error.status === 404 ? GONE : sentence(error));
      })
      .finally(() => setBusy(false));
    return () => ending.abort();
  }, []);
  return html`
    <${Dialog} title="Message" wide onClose=${onClose}>
      <div class="stack">
        <p class="object"><code>${full.id}</code><${Copy} compact text=${() => full.id} label="Copy the id" /></p>
        ${problem && html`<p class="problem" role="alert">${problem}</p>`}
        ${busy && html`<p class="quiet" role="status">Looking for it …</p>`}
        <${MessageFacts} message=${full} rate=${rate} load=${async () => (await find(request, new AbortController().signal)).payload ?? ""} />
        <footer class="dialog-footer"><${CopyCurl} request=${request} />${children}</footer>
      </div>
    <//>
  `;
}

/**
 * What is known of a message, and its payload.
 * @param {{ message: Message, rate?: number, load?: () => Promise<string> }} props `load` gets a payload that is not there in full.
 */
export const MessageFacts = ({ message, rate = 0, load }) => html`
  <${Details} message=${message} rate=${rate} />
  ${message.payload_error
    ? html`<p class="problem">The payload is lost: ${message.payload_error}</p>`
    : html`
        <${Payload}
          key=${message.payload == null ? "preview" : "whole"}
          id=${message.id}
          text=${message.payload ?? message.payload_preview ?? ""}
          size=${message.payload == null ? message.payload_bytes : undefined}
          load=${message.payload == null ? load : undefined}
        />
      `}
`;

/** How many are before it, and about when its turn comes. @param {number} before @param {number} rate */
function turn(before, rate) {
  if (before === 0) return "it is the next";
  return `${counted(before, "message")} before it${rate > 0 ? `, about ${duration((1000 * before) / rate)}` : ""}`;
}

/** @param {{ message: Message, rate: number }} props */
function Details({ message, rate }) {
  const created = millis(message.created_at);
  const until = millis(message.lock_until);
  const since = millis(message.locked_since);
  const deliveries = message.deliveries ?? message.retry_count;
  /** @type {[string, any][]} */
  const facts = [
    ["State", message.state],
    ["Turn", message.before !== undefined && turn(message.before, rate)],
    ["Priority", html`<bdi class="tabular">${priorityOf(message)}</bdi>`],
    ["Published", created && html`<${Instant} ms=${created} />`],
    ["Deliveries", deliveries !== undefined && `${count(deliveries)}${message.max_retries === undefined ? "" : ` of ${count(message.max_retries)}`}`],
    ["Held by", message.consumer && until && html`<bdi>${message.consumer}</bdi>`],
    ["Locked since", since && html`<${Instant} ms=${since} />`],
    ["Locked until", until && html`<${Instant} ms=${until} />`],
    ["Died", message.died_at && html`<${Instant} ms=${message.died_at} />`],
    ["Because", message.reason && (REASONS[message.reason] ?? message.reason)],
    ["Last consumer", message.died_at && message.consumer && html`<bdi>${message.consumer}</bdi>`],
    ["It said", message.error && html`<bdi class="said">${message.error}</bdi>`],
    ["Requeued before", message.requeues ? html`<span class="pill warn">${count(message.requeues)} times, and came back</span>` : null],
  ];
  return html`
    <dl class="facts plain">
      ${facts.filter(([, value]) => value !== undefined && value !== null && value !== false && value !== "").map(
        ([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`,
      )}
    </dl>
  `;
}
