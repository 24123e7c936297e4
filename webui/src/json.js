/**
 * JSON without rounding: integers beyond 2^53 become BigInt, and are written as they were.
 *
 * Rule: a number is never changed between the server and the screen. `prettyJson` copies each token as it stands, so it
 * shows repeated fields and every digit.
 */

const STRING = String.raw`"[^"\\]*(?:\\[^][^"\\]*)*"`;
const STRINGS_AND_NUMBERS = new RegExp(String.raw`${STRING}|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?`, "g");
const TOKENS = new RegExp(String.raw`${STRING}|[{}[\],:]|[^\s{}[\],:"]+`, "g");
const MANY_DIGITS = /\d{16}/;
const INTEGER = /^-?\d+$/;

/** Starts a string that stands for a BigInt. No text can guess it. */
const MARK = `integer-${Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16)).join("")}:`;

/**
 * Parse JSON. Throws SyntaxError.
 * @param {string} text
 * @returns {any}
 */
export function parseJson(text) {
  if (!MANY_DIGITS.test(text)) return JSON.parse(text);
  const marked = text.replace(STRINGS_AND_NUMBERS, (token) =>
    INTEGER.test(token) && !Number.isSafeInteger(Number(token)) ? `"${MARK}${token}"` : token,
  );
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(MARK) ? BigInt(value.slice(MARK.length)) : value,
  );
}

/**
 * Write a value as JSON, with every digit of a BigInt.
 * @param {unknown} value
 * @returns {string}
 */
export function encodeJson(value) {
  const text = JSON.stringify(value, (_, part) => (typeof part === "bigint" ? MARK + part : part));
  return text.replaceAll(new RegExp(`"${MARK}(-?\\d+)"`, "g"), "$1");
}

/**
 * The same JSON with line breaks and indents; null if it is no JSON, or a plain string or number.
 * @param {string} text
 * @returns {string | null}
 */
export function prettyJson(text) {
  if (!/^\s*[{[]/.test(text)) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const pieces = [];
  let indent = "\n";
  let previous = "";
  for (const [token] of text.matchAll(TOKENS)) {
    if (token === "}" || token === "]") {
      indent = indent.slice(0, -2);
      if (previous !== "{" && previous !== "[") pieces.push(indent);
    } else if (previous === "{" || previous === "[") {
      pieces.push(indent);
    }
    pieces.push(token);
    if (token === "{" || token === "[") indent += "  ";
    else if (token === ",") pieces.push(indent);
    else if (token === ":") pieces.push(" ");
    previous = token;
  }
  return pieces.join("");
}
