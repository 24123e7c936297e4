/**
 * The server's routes as functions. The only file that fetches, and the only one that opens a WebSocket.
 *
 * Rule: every address is relative to this file, so the page works under any path prefix of a proxy. Queue names go into
 * the query, because proxies refuse or decode `%2F` in paths. A function returns the answer, or throws `Refused` (the
 * server said no) or `Unreachable` (it said nothing).
 */

import { address, asCurl, bodyOf } from "./curl.js";
import { parseJson } from "./json.js";

/** @typedef {import("./curl.js").Request} Request */
/** @typedef {import("./types.js").ServerInfo} ServerInfo */
/** @typedef {import("./types.js").QueueList} QueueList */

const ROOT = new URL("../../", import.meta.url);
const TIMEOUT_MS = 15_000;
/** The heartbeat's own: with a request a second, a silent server is found within three. */
export const HEARTBEAT_TIMEOUT_MS = 1_500;

/** The server refused: `message` is its sentence, `code` its stable name for it. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** There was no answer, or none in time. */
export class Unreachable extends Error {}

/** @typedef {{ signal?: AbortSignal, timeout?: number }} Options */
/** @typedef {{ status: number, reason: string, headers: [string, string][], text: string, ms: number }} Exchange */

/**
 * @param {Request} request
 * @param {Options} [options]
 * @returns {Promise<any>} The parsed answer; null if it is empty.
 */
export async function send(request, options) {
  const { status, text } = await exchange(request, options);
  if (status > 299) throw refusal(status, text);
  return text === "" ? null : parseJson(text);
}

/**
 * Send a request, and get the answer as it is, a refusal, too. Throws `Unreachable`, and what an abort throws.
 * @param {Request} request
 * @param {Options} [options]
 * @returns {Promise<Exchange>}
 */
export async function exchange(request, { signal, timeout = TIMEOUT_MS } = {}) {
  const patience = AbortSignal.timeout(timeout);
  const body = bodyOf(request);
  const begun = performance.now();
  try {
    const response = await fetch(address(request, ROOT), {
      method: request.method,
      headers: {
        ...(body !== null && { "Content-Type": "application/json" }),
        ...(request.token && { Authorization: `Bearer ${request.token}` }),
      },
      body,
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
      cache: "no-store",
    });
    const text = await response.text();
    const { status, statusText: reason, headers } = response;
    return { status, reason, headers: [...headers], text, ms: performance.now() - begun };
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("The server does not answer");
  }
}

/**
 * @param {number} status
 * @param {string} text
 */
function refusal(status, text) {
  try {
    const { error, message, code, status: state } = JSON.parse(text);
    return new Refused(status, code ?? state ?? "", error ?? message ?? `The server answers ${status}`);
  } catch {
    return new Refused(status, "", `The server answers ${status}`);
  }
}

/** @param {Request} request */
export const curl = (request) => asCurl(request, ROOT);

/** @returns {WebSocket} */
export function openSocket() {
  const url = new URL("ws", ROOT);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url);
}

/** @param {string} path @param {Record<string, string>} [query] @returns {Request} */
const get = (path, query) => ({ method: "GET", path, ...(query && { query }) });
/** @param {string} path @param {unknown} body @param {Record<string, string>} [query] @returns {Request} */
const post = (path, body, query) => ({ method: "POST", path, body, ...(query && { query }) });

/** Leaves out what is empty. @param {Record<string, string | number | undefined>} values */
function filled(values) {
  /** @type {Record<string, string>} */
  const given = {};
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined && value !== "") given[name] = String(value);
  }
  return given;
}

/** What each screen and button asks. `send` sends one; `curl` shows it. */
export const requests = {
  server: () => get("server"),
  /** @param {string} token */
  login: (token) => post("login", { token }),
  /** @returns {Request} */
  logout: () => ({ method: "POST", path: "logout" }),
  openapi: () => get("openapi.json"),
  asyncapi: () => get("asyncapi.json"),
  /** @param {{ name?: string, search?: string, sort?: string, order?: string, limit?: number, offset?: number }} filter */
  queueList: (filter) => get("queue-list", filled(filter)),
  /** @param {string} queue */
  metrics: (queue) => get("queues/metrics", { queue }),
  /** @param {number} seconds */
  timings: (seconds) => get("operation-timings", { seconds: String(seconds) }),
  histograms: () => get("operation-histograms"),
  /** @param {{ limit?: number, cursor?: string }} page */
  audit: (page) => get("audit", filled(page)),

  /** @param {string} name @param {Record<string, unknown>} config */
  createQueue: (name, config) => post("create-queue", { name, config }),
  /** @param {string} name @param {Record<string, unknown>} config */
  updateQueue: (name, config) => post("update-queue", { name, config }),
  /** @param {string} queue @param {number} undo Seconds for which it can be put back. @returns {Request} */
  purgeQueue: (queue, undo) => ({ method: "POST", path: "purge-queue", query: { queue, ...filled({ undo_seconds: undo || "" }) } }),
  /** @param {string} queue @param {number} undo Seconds for which it can be put back. @returns {Request} */
  deleteQueue: (queue, undo) => ({ method: "DELETE", path: "delete-queue", query: { queue, ...filled({ undo_seconds: undo || "" }) } }),
  trash: () => get("trash"),
  /** @param {number} id @param {string} [to] @returns {Request} */
  restore: (id, to) => ({ method: "POST", path: "trash/restore", query: { id: String(id), ...filled({ to }) } }),
  /** @param {number} id @returns {Request} */
  erase: (id) => ({ method: "POST", path: "trash/erase", query: { id: String(id) } }),

  /** @param {Record<string, unknown>} message */
  publish: (message) => post("publish", message),
  /** @param {string} queue @param {string} consumer @param {number} seconds */
  consume: (queue, consumer, seconds) =>
    post("consume", { consumer_id: consumer, timeout_seconds: seconds, details: true }, { queue }),
  /** @param {string} queue @param {string} id @param {string} consumer */
  ack: (queue, id, consumer) => post("ack", { consumer_id: consumer }, { queue, id }),
  /** @param {string} queue @param {string} id @param {string} consumer @param {string} [error] */
  nack: (queue, id, consumer, error) => post("nack", { consumer_id: consumer, ...(error && { error }) }, { queue, id }),

  /** @param {string} queue @param {{ state?: string, limit?: number, cursor?: string }} filter */
  messages: (queue, filter) => get("queues/messages", { queue, ...filled(filter) }),
  /** @param {string} queue @param {string} id */
  message: (queue, id) => get("queues/messages", { queue, id }),
  /** @param {string} id @param {string} cursor Where the search before ended; empty: it begins. */
  find: (id, cursor) => get("find", { id, ...filled({ cursor }) }),
  /** @param {string} queue */
  priorities: (queue) => get("queues/priorities", { queue }),
  /** @param {string} queue @param {{ limit?: number, cursor?: string }} filter */
  locks: (queue, filter) => get("queues/locks", { queue, ...filled(filter) }),
  /** @param {string} queue @param {Record<string, unknown>} which `ids`, `consumer_id` or `all`. */
  forceUnlock: (queue, which) => post("force-unlock", which, { queue }),

  /** @param {string} queue @param {Record<string, string | number | undefined>} filter */
  deadLetters: (queue, filter) => get("queues/dead-letters", { queue, ...filled(filter) }),
  /** @param {string} queue @param {string} id */
  deadLetter: (queue, id) => get("queues/dead-letters", { queue, id }),
  /** @param {string} queue @param {Record<string, unknown>} which */
  requeue: (queue, which) => post("queues/dead-letters/requeue", which, { queue }),
  /** @param {string} queue @param {Record<string, unknown>} which */
  purgeDeadLetters: (queue, which) => post("queues/dead-letters/purge", which, { queue }),
};
