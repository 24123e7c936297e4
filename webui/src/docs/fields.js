/** JSON Schema as rows: the name of a field, what it takes, and what it means. */

import { encodeJson } from "../json.js";

/**
 * @typedef {object} Schema
 * @property {string} [$ref]
 * @property {string} [type]
 * @property {unknown} [const]
 * @property {unknown[]} [enum]
 * @property {Schema[]} [anyOf]
 * @property {Schema[]} [oneOf]
 * @property {Schema[]} [prefixItems]
 * @property {Schema} [items]
 * @property {Record<string, Schema>} [properties]
 * @property {Schema | boolean} [additionalProperties]
 * @property {string[]} [required]
 * @property {string} [description]
 * @property {number | bigint} [minimum]
 * @property {number | bigint} [maximum]
 * @property {number} [minLength]
 * @property {number} [maxLength]
 * @property {number} [minItems]
 * @property {number} [maxItems]
 *
 * @typedef {object} Row
 * @property {string} name Of a field inside of others with dots, of a list with brackets: `messages[].payload`.
 * @property {boolean} required
 * @property {string} takes
 * @property {string} meaning
 */

/** Deeper fields are left out. The deepest of the API are three levels down. */
const MAX_DEPTH = 6;

/** @param {any} document @param {Schema | undefined} schema @returns {Schema} */
function resolved(document, schema) {
  let at = schema ?? {};
  while (at.$ref) {
    const path = at.$ref.replace(/^#\//, "").split("/");
    at = path.reduce((/** @type {any} */ value, step) => value?.[step], document) ?? {};
  }
  return at;
}

/** What a value is one of. Of an object they only say which fields go together. @param {Schema} schema */
const partsOf = (schema) => (schema.properties ? undefined : (schema.anyOf ?? schema.oneOf));

/** The alternatives of a schema, none of them null. @param {any} document @param {Schema} schema @returns {Schema[]} */
function alternatives(document, schema) {
  const at = resolved(document, schema);
  const parts = partsOf(at);
  if (!parts) return at.type === "null" ? [] : [at];
  return parts.flatMap((part) => alternatives(document, part));
}

/**
 * The fields of an object, of the objects in it, and of those in its lists.
 * @param {any} document
 * @param {Schema | undefined} schema
 * @param {string} [prefix]
 * @param {number} [depth]
 * @returns {Row[]}
 */
export function rowsOf(document, schema, prefix = "", depth = 0) {
  if (!schema || depth > MAX_DEPTH) return [];
  /** @type {Map<string, Row>} */
  const rows = new Map();
  const add = (/** @type {Row[]} */ more) => {
    for (const row of more) if (!rows.has(row.name)) rows.set(row.name, row);
  };
  for (const each of alternatives(document, schema)) {
    if (each.type === "array") {
      for (const item of [each.items, ...(each.prefixItems ?? [])]) add(rowsOf(document, item, `${prefix}[]`, depth + 1));
    }
    if (typeof each.additionalProperties === "object") {
      add(rowsOf(document, each.additionalProperties, `${prefix}.*`, depth + 1));
    }
    for (const [field, of] of Object.entries(each.properties ?? {})) {
      const name = prefix ? `${prefix}.${field}` : field;
      const required = each.required?.includes(field) ?? false;
      add([{ name, required, takes: takes(document, of), meaning: of.description ?? resolved(document, of).description ?? "" }]);
      add(rowsOf(document, of, name, depth + 1));
    }
  }
  return [...rows.values()];
}

/** What a value may be, in words. @param {any} document @param {Schema} schema @returns {string} */
export function takes(document, schema) {
  const at = resolved(document, schema);
  const parts = partsOf(at);
  if (parts) return [...new Set(parts.map((part) => takes(document, part)))].join(" or ");
  if ("const" in at) return encodeJson(at.const);
  if (at.enum) return at.enum.map((value) => (typeof value === "string" ? value : encodeJson(value))).join(", ");
  if (at.type === "array") return `list${range(at.minItems, at.maxItems, " ")}${at.items ? ` of ${takes(document, at.items)}` : ""}`;
  if (at.type === "string") return `string${range(at.minLength, at.maxLength, " ", " characters")}`;
  if (at.type === "integer" || at.type === "number") return `${at.type}${range(at.minimum, at.maximum, " ")}`;
  if (at.type === "object" && typeof at.additionalProperties === "object") return `object of ${takes(document, at.additionalProperties)}`;
  const some = (at.properties && at.anyOf?.flatMap((each) => each.required ?? [])) ?? [];
  return some.length > 0 ? `object with at least one of ${some.join(", ")}` : (at.type ?? "anything");
}

/**
 * @param {number | bigint | undefined} least
 * @param {number | bigint | undefined} most
 * @param {string} before
 * @param {string} [unit]
 */
function range(least, most, before, unit = "") {
  if (least === undefined && most === undefined) return "";
  if (most === undefined) return `${before}from ${least}${unit}`;
  return least === undefined ? `${before}up to ${most}${unit}` : `${before}${least} to ${most}${unit}`;
}
