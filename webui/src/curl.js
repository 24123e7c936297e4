/**
 * A request as a curl command that can be pasted into a shell.
 *
 * Rule: the command does what the button does. Quoting is that of POSIX shells: everything in single quotes.
 */

import { encodeJson } from "./json.js";

/**
 * @typedef {object} Request
 * @property {string} method
 * @property {string} path Relative to the root of the server, without a slash in front.
 * @property {Record<string, string>} [query]
 * @property {unknown} [body] Sent as JSON.
 * @property {string} [text] The body as it was typed, sent in place of `body`.
 * @property {string} [token] For a server that has tokens. A command has a variable in its place.
 */

/** @param {string} text */
export const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The body as it is sent; null if there is none. @param {Request} request */
export function bodyOf({ body, text }) {
  if (text !== undefined) return text;
  return body === undefined ? null : encodeJson(body);
}

/**
 * @param {Request} request
 * @param {URL} root
 */
export function address(request, root) {
  const url = new URL(request.path, root);
  if (request.query) url.search = new URLSearchParams(request.query).toString();
  return url;
}

/**
 * @param {Request} request
 * @param {URL} root
 */
export function asCurl(request, root) {
  const parts = ["curl"];
  const body = bodyOf(request);
  const usual = body === null ? "GET" : "POST";
  if (request.method !== usual) parts.push("-X", request.method);
  parts.push(quoted(address(request, root).href));
  if (request.token) parts.push("-H", '"Authorization: Bearer $QRUSTY_TOKEN"');
  if (body !== null) {
    // Of what was typed, curl would take a leading @ for the name of a file.
    const option = body.startsWith("@") ? "--data-raw" : "-d";
    parts.push("-H", quoted("Content-Type: application/json"), option, quoted(body));
  }
  return parts.join(" ");
}
