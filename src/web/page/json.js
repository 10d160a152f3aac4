// JSON with all its numbers: JavaScript rounds 12345678901234567890 and writes 1.50 as 1.5, but the pages show and send what was
// published, and what the user has typed.

/** Strings and numbers of a JSON text. */
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d[\d.eE+-]*/g;
const STRINGS_AND_SPACES = /("[^"\\]*(?:\\.[^"\\]*)*")|\s+/g;
/** Stands before the place of a text in a string. Random, so that no publication can contain it. */
const MARK = Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join("-");
const MARKED = new RegExp(`"${MARK}:(\\d+)"`, "g");

/** A JSON value as text, which `toJson` writes unchanged. */
export class JsonText {
  constructor(text) {
    this.text = text;
  }

  toString() {
    return this.text;
  }
}

/** Returns a valid JSON text without the spaces between its tokens. Throws a SyntaxError if it is not valid. */
export function checkJson(text) {
  JSON.parse(text);
  return new JsonText(text.replace(STRINGS_AND_SPACES, "$1"));
}

/** Parses JSON. A number that JavaScript would write differently becomes a JsonText. */
export function parseJson(text) {
  const numbers = [];
  const mark = (token) =>
    token[0] === '"' || String(Number(token)) === token ? token : `"${MARK}:${numbers.push(new JsonText(token)) - 1}"`;
  const marked = text.replace(TOKENS, mark);
  // Also refuses numbers that are not valid, which are no longer in the marked text.
  const value = JSON.parse(text);
  if (numbers.length === 0) return value;
  const find = (text) => (text.startsWith(`${MARK}:`) ? numbers[Number(text.slice(MARK.length + 1))] : text);
  return JSON.parse(marked, (_, value) => (typeof value === "string" ? find(value) : value));
}

/** Writes JSON. */
export function toJson(value) {
  const texts = [];
  const mark = (_, value) => (value instanceof JsonText ? `${MARK}:${texts.push(value.text) - 1}` : value);
  return JSON.stringify(value, mark)?.replace(MARKED, (_, at) => texts[Number(at)]);
}
