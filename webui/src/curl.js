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
 */

/** @param {string} text */
export const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

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
  const usual = request.body === undefined ? "GET" : "POST";
  if (request.method !== usual) parts.push("-X", request.method);
  parts.push(quoted(address(request, root).href));
  if (request.body !== undefined) {
    parts.push("-H", quoted("Content-Type: application/json"), "-d", quoted(encodeJson(request.body)));
  }
  return parts.join(" ");
}
