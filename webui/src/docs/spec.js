/**
 * The API as this page shows it, read from `/openapi.json` and `/asyncapi.json`.
 *
 * Rule: nothing of the API is written down here. What those documents do not say, the page does not say either.
 */

import { rowsOf } from "./fields.js";

/** @typedef {import("./fields.js").Schema} Schema */
/** @typedef {import("./fields.js").Row} Row */

/**
 * @typedef {object} Parameter
 * @property {string} name
 * @property {"path" | "query"} in
 * @property {boolean} [required]
 * @property {string} [description]
 * @property {Schema} schema
 *
 * @typedef {object} Refusal
 * @property {string} status
 * @property {string} code
 * @property {string} meaning
 *
 * @typedef {object} Operation
 * @property {string} id
 * @property {string} group
 * @property {string} method
 * @property {string} path With names in braces.
 * @property {string} summary
 * @property {string} notes
 * @property {Parameter[]} parameters
 * @property {{ rows: Row[], oneOf: string[], example: unknown } | null} body
 * @property {{ rows: Row[], nullable: boolean, example: unknown } | null} answer Null: the body is empty.
 * @property {Refusal[]} refusals
 *
 * @typedef {object} Part
 * @property {string} title
 * @property {string} summary
 * @property {Row[]} rows
 * @property {unknown} example
 *
 * @typedef {object} Frame
 * @property {string} id
 * @property {string} group
 * @property {string} type
 * @property {boolean} sent Whether the server sends it by itself.
 * @property {string} summary
 * @property {Part[]} parts The frame, and the answers to it.
 *
 * @typedef {object} Api
 * @property {string} title
 * @property {string} version
 * @property {string} about
 * @property {string[]} groups
 * @property {(Operation | Frame)[]} entries
 */

/** Whether an entry is a frame of the WebSocket. @param {Operation | Frame} entry @returns {entry is Frame} */
export const isFrame = (entry) => "type" in entry;

/** The title of an entry: `POST /publish`, or the type of a frame. @param {Operation | Frame} entry */
export const nameOf = (entry) => (isFrame(entry) ? entry.type : `${entry.method} ${entry.path}`);

const GROUPS = { receive: "WebSocket: to the server", send: "WebSocket: from the server" };
const CODE_LINE = /^- `([^`]+)`: (.*)$/;

/** What `$ref` leads to. @param {any} document @param {any} value @returns {any} */
function followed(document, value) {
  if (!value?.$ref) return value;
  const path = value.$ref.replace(/^#\//, "").split("/");
  return path.reduce((/** @type {any} */ at, /** @type {string} */ step) => at?.[step], document);
}

/** @param {any} openapi @param {any} asyncapi @returns {Api} */
export function readApi(openapi, asyncapi) {
  const operations = Object.entries(openapi.paths).flatMap(([path, methods]) =>
    Object.entries(/** @type {any} */ (methods)).map(([method, each]) => operation(openapi, path, method, each)),
  );
  const frames = Object.entries(asyncapi.operations).map(([id, each]) => frame(asyncapi, id, each));
  return {
    title: openapi.info.title,
    version: openapi.info.version,
    about: openapi.info.description,
    groups: [...openapi.tags.map((/** @type {any} */ tag) => tag.name), GROUPS.receive, GROUPS.send],
    entries: [...operations, ...frames],
  };
}

/** @param {any} document @param {string} path @param {string} method @param {any} made @returns {Operation} */
function operation(document, path, method, made) {
  const body = made.requestBody?.content["application/json"];
  const answer = made.responses["200"].content?.["application/json"];
  const schema = followed(document, body?.schema);
  return {
    id: made.operationId,
    group: made.tags[0],
    method: method.toUpperCase(),
    path,
    summary: made.summary,
    notes: made.description ?? "",
    parameters: made.parameters,
    body: body && { rows: rowsOf(document, schema), oneOf: oneOf(schema), example: body.example },
    answer: answer && {
      rows: rowsOf(document, answer.schema),
      nullable: (answer.schema.anyOf ?? []).some((/** @type {Schema} */ each) => each.type === "null"),
      example: answer.example,
    },
    refusals: Object.entries(made.responses).flatMap(([status, response]) => refusals(document, status, response)),
  };
}

/** The fields of which exactly one must be given. @param {Schema} schema @returns {string[]} */
const oneOf = (schema) => (schema?.oneOf ?? []).flatMap((each) => each.required ?? []);

/** @param {any} document @param {string} status @param {any} response @returns {Refusal[]} */
function refusals(document, status, response) {
  const lines = String(followed(document, response).description).split("\n");
  return lines.flatMap((line) => {
    const [, code, meaning] = CODE_LINE.exec(line) ?? [];
    return code ? [{ status, code, meaning: meaning ?? "" }] : [];
  });
}

/** @param {any} document @param {string} id @param {any} made @returns {Frame} */
function frame(document, id, made) {
  const messages = [...made.messages, ...(made.reply?.messages ?? [])];
  const parts = messages.map((message, index) => {
    const { name, summary, payload, examples } = followed(document, message);
    return { title: index === 0 ? name : `Answer: ${name}`, summary, rows: rowsOf(document, payload), example: examples[0]?.payload };
  });
  const [{ title, summary } = { title: id, summary: made.summary }] = parts;
  const action = /** @type {keyof typeof GROUPS} */ (made.action);
  return { id: `ws-${title}-${action}`, group: GROUPS[action], type: title, sent: action === "send", summary, parts };
}

/**
 * The entries with all words of a search somewhere in their path, summary, fields or codes.
 * @param {Api} api
 * @param {string} search
 */
export function found(api, search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  return api.entries.filter((entry) => {
    const text = textOf(entry);
    return words.every((word) => text.includes(word));
  });
}

/** @type {WeakMap<Operation | Frame, string>} */
const texts = new WeakMap();

/** What a search looks at. @param {Operation | Frame} entry */
function textOf(entry) {
  const known = texts.get(entry);
  if (known !== undefined) return known;
  const pieces = isFrame(entry)
    ? entry.parts.flatMap((part) => [part.title, part.summary, ...part.rows.map((row) => row.name)])
    : [
        entry.id,
        entry.notes,
        ...entry.parameters.map((each) => each.name),
        ...[...(entry.body?.rows ?? []), ...(entry.answer?.rows ?? [])].map((row) => row.name),
        ...entry.refusals.flatMap((each) => [each.status, each.code]),
      ];
  const text = [nameOf(entry), entry.group, entry.summary, ...pieces].join(" ").toLowerCase();
  texts.set(entry, text);
  return text;
}
