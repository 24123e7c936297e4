/** What the form of an operation stands for: the request that is sent, and what was typed into it before. */

import { signal } from "../../vendor/signals.js";
import { encodeJson, prettyJson } from "../json.js";

/** @typedef {import("./spec.js").Operation} Operation */

/** The last queue and message, for every form: what was published in one is consumed and acked in the next. */
const shared = new Map([["queue", "jobs"]]);
/** What was typed, by operation. @type {Map<string, { values: Record<string, string>, body: string }>} */
const typed = new Map();

/** @param {Operation} operation */
export function formOf(operation) {
  const { values, body } = typed.get(operation.id) ?? {
    values: {},
    body: operation.body ? pretty(operation.body.example) : "",
  };
  const remembered = Object.fromEntries(operation.parameters.map(({ name }) => [name, values[name] ?? shared.get(name) ?? ""]));
  for (const { name, in: place } of operation.parameters) if (place === "path") remembered[name] = shared.get(name) ?? "";
  return { values: remembered, body };
}

/** @param {Operation} operation @param {Record<string, string>} values @param {string} body */
export function remember(operation, values, body) {
  typed.set(operation.id, { values, body });
  for (const { name, in: place } of operation.parameters) if (place === "path") shared.set(name, values[name] ?? "");
}

/** The token of all forms. It is never stored. */
export const token = signal("");

/** Whatever message a response names is the one of the next form. @param {string} text */
export function learn(text) {
  try {
    const { id } = JSON.parse(text) ?? {};
    if (typeof id === "string") shared.set("id", id);
  } catch {
    // It is no JSON, so it names none.
  }
}

/** @param {unknown} value */
export function pretty(value) {
  const text = encodeJson(value);
  return prettyJson(text) ?? text;
}

/** Whether a name can be a part of a path: browsers and proxies change such with slashes, and `..`. @param {string} name */
const isPlain = (name) => !/[/\\%;]/.test(name) && !/^\.{0,2}$/.test(name);

/**
 * The request. A queue whose name can't be in a path is named in the query instead.
 * @param {Operation} operation
 * @param {Record<string, string>} values By the names of the parameters; what is empty is left out.
 * @param {string} body
 * @returns {import("../curl.js").Request}
 */
export function requestOf(operation, values, body) {
  /** @type {Record<string, string>} */
  const query = {};
  const names = operation.parameters.filter((each) => each.in === "path").map((each) => each.name);
  const inPath = names.every((name) => isPlain(values[name] ?? ""));
  for (const { name, in: place } of operation.parameters) {
    const value = values[name] ?? "";
    if (value !== "" && (place === "query" || !inPath)) query[name] = value;
  }
  const segments = operation.path.split("/").filter((segment) => segment !== "" && (inPath || !segment.startsWith("{")));
  const path = segments.map((each) => (each.startsWith("{") ? encodeURIComponent(values[each.slice(1, -1)] ?? "") : each));
  return {
    method: operation.method,
    path: path.join("/"),
    ...(Object.keys(query).length > 0 && { query }),
    ...(operation.body && { text: body }),
    ...(token.value && { token: token.value }),
  };
}
