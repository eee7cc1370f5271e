/**
 * One strict JSON parser for the header, the metadata document, the index and (leniently) config.json.
 * JSON.parse cannot be used: it hides duplicate keys, the way a number was written, and unpaired surrogates.
 *
 * Values: JsonObject, Array, string, boolean, null, and for numbers
 *   - a JavaScript number, for an integer of magnitude at most INTEGER_MAX written as digits (not `-0`);
 *   - a JsonNumber that keeps the text, for every other number.
 */

import { TernfmtError } from './errors.mjs';
import { DEPTH_MAX, INTEGER_MAX, NUMBER_CHARS_MAX, compareCodePoints } from './limits.mjs';

/** A number that is not an integer of at most INTEGER_MAX, as written: `2.0`, `1e3`, `-0`, 2^53. */
export class JsonNumber {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/** A JSON object: its members in the order of the text. */
export class JsonObject {
  /** @param {any[]} members  key, value, key, value, ... */
  constructor(members) {
    this.members = members;
  }

  /** @param {string} key @returns {any} undefined where there is no such key */
  get(key) {
    for (let i = this.members.length - 2; i >= 0; i -= 2) {
      if (this.members[i] === key) return this.members[i + 1];
    }
    return undefined;
  }

  /** @returns {Generator<[string, any]>} */
  *entries() {
    for (let i = 0; i < this.members.length; i += 2) yield [this.members[i], this.members[i + 1]];
  }
}

/**
 * Step 3: bytes to text (S-1.3).
 *
 * @param {Uint8Array} bytes
 * @param {string} where  for the error's location
 * @returns {string}
 */
export function decodeUtf8(bytes, where) {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) {
    throw new TernfmtError('ENCODING', where, 'starts with a byte order mark (S-1.3)');
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new TernfmtError('ENCODING', where, 'is not UTF-8 (S-1.3)');
  }
}

/**
 * Steps 4, 5 and 6: text to one JSON object, each step over the whole text before the next.
 *
 * @param {string} text
 * @param {string} where  for the error's location
 * @param {'header'|'index'} framing  `header`: S-1.4, from `{` on, only spaces after `}`.
 *                                    `index`: S-7.3, JSON whitespace before and after.
 * @returns {JsonObject}
 */
export function parseStrict(text, where, framing) {
  const parser = new Parser(text, where, false);
  const value = parser.readDocument(framing);
  if (parser.unpairedSurrogate !== null) {
    throw new TernfmtError('ENCODING', `${where}, character ${parser.unpairedSurrogate}`,
      'an escape stands for an unpaired surrogate (S-1.3)');
  }
  parser.failOnDuplicateKey();
  return value;
}

/**
 * config.json (S-7.8): `NaN`, `Infinity` and unpaired surrogates are let through.
 *
 * @param {string} text
 * @param {string} where
 * @returns {JsonObject}
 */
export function parseLenient(text, where) {
  const parser = new Parser(text, where, true);
  const value = parser.readDocument('index');
  parser.failOnDuplicateKey();
  return value;
}

/** Values are never changed, so all empty containers share one: `[],[],...` costs little memory (S-9.1). */
const EMPTY = Object.freeze([]);
const EMPTY_OBJECT = new JsonObject(EMPTY);

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** Reads one character more than allowed, and never a whole hostile run of digits. */
const NUMBER_CHARS = new RegExp(`[-+.eE0-9]{1,${NUMBER_CHARS_MAX + 1}}`, 'y');
const NUMBER = /^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$/;
const INTEGER = /^-?[0-9]+$/;
const LOW_SURROGATE_ESCAPE = /^\\u[dD][c-fC-F][0-9a-fA-F]{2}$/;
const SIMPLE_ESCAPES = new Map([
  ['"', '"'], ['\\', '\\'], ['/', '/'], ['b', '\b'], ['f', '\f'], ['n', '\n'], ['r', '\r'], ['t', '\t'],
]);
const LITERALS = [['true', true], ['false', false], ['null', null]];
const LENIENT_LITERALS = ['NaN', 'Infinity', '-Infinity'];

/** A recursive-descent parser of RFC 8259. Errors of form are thrown; those of steps 5 and 6 are noted. */
class Parser {
  constructor(text, where, lenient) {
    this.text = text;
    this.where = where;
    this.lenient = lenient;
    this.position = 0;
    this.depth = 0;
    /** Elements of the containers being read, innermost last: arrays are cut from it at their exact length. */
    this.pending = [];
    this.shortNumbers = new Map();
    /** @type {number|null} where step 5 fails */
    this.unpairedSurrogate = null;
    /** @type {string|null} where step 6 fails */
    this.duplicateKey = null;
  }

  fail(message) {
    throw new TernfmtError('JSON', `${this.where}, character ${this.position}`, message);
  }

  /** Step 6. */
  failOnDuplicateKey() {
    if (this.duplicateKey !== null) {
      throw new TernfmtError('DUPLICATE', this.where,
        `key ${JSON.stringify(this.duplicateKey)} occurs twice in one object (S-1.6)`);
    }
  }

  /** One object and its framing (S-1.4, S-7.3). */
  readDocument(framing) {
    if (framing === 'index') this.skipWhitespace();
    if (this.text[this.position] !== '{') this.fail('expected {');
    const value = this.readObject();
    if (framing === 'index') this.skipWhitespace();
    else while (this.text[this.position] === ' ') this.position++;
    if (this.position !== this.text.length) this.fail('text after the closing }');
    return value;
  }

  readValue() {
    const char = this.text[this.position];
    if (char === '{') return this.readObject();
    if (char === '[') return this.readArray();
    if (char === '"') return this.readString();
    if (this.lenient) {
      const literal = LENIENT_LITERALS.find((name) => this.text.startsWith(name, this.position));
      if (literal) {
        this.position += literal.length;
        return new JsonNumber(literal);
      }
    }
    if (char === '-' || (char >= '0' && char <= '9')) return this.readNumber();
    for (const [name, value] of LITERALS) {
      if (this.text.startsWith(name, this.position)) {
        this.position += name.length;
        return value;
      }
    }
    return this.fail('expected a value');
  }

  readObject() {
    this.enterContainer();
    const first = this.pending.length;
    let keys = null;
    while (this.hasNextElement('}', this.pending.length === first)) {
      keys ??= new Set();
      const key = this.readKey(keys);
      const value = this.readValue();
      this.pending.push(key, value);
    }
    const members = this.leaveContainer(first);
    return members === EMPTY ? EMPTY_OBJECT : new JsonObject(members);
  }

  readArray() {
    this.enterContainer();
    const first = this.pending.length;
    while (this.hasNextElement(']', this.pending.length === first)) {
      const value = this.readValue();
      this.pending.push(value);
    }
    return this.leaveContainer(first);
  }

  /** A key and its colon; a key seen before is noted for step 6 (S-1.6). */
  readKey(keys) {
    if (this.text[this.position] !== '"') this.fail('expected a key');
    const key = this.readString();
    if (keys.has(key)) this.duplicateKey ??= key;
    keys.add(key);
    this.skipWhitespace();
    if (this.text[this.position] !== ':') this.fail('expected :');
    this.position++;
    this.skipWhitespace();
    return key;
  }

  /** At `{` or `[`: S-1.5, containers nest at most DEPTH_MAX deep, the outermost counting as one. */
  enterContainer() {
    this.depth++;
    if (this.depth > DEPTH_MAX) this.fail(`containers nest more than ${DEPTH_MAX} deep (S-1.5)`);
    this.position++;
  }

  /** Reads up to the next element, or past `close`. */
  hasNextElement(close, isFirst) {
    this.skipWhitespace();
    const char = this.text[this.position];
    if (char === close) {
      this.position++;
      return false;
    }
    if (isFirst) return true;
    if (char !== ',') this.fail(`expected , or ${close}`);
    this.position++;
    this.skipWhitespace();
    return true;
  }

  /** The elements from `first` on, no longer pending. */
  leaveContainer(first) {
    this.depth--;
    if (this.pending.length === first) return EMPTY;
    const elements = this.pending.slice(first);
    this.pending.length = first;
    return elements;
  }

  /** S-1.5: at most NUMBER_CHARS_MAX characters, checked before anything is made of them. */
  readNumber() {
    NUMBER_CHARS.lastIndex = this.position;
    const [text] = NUMBER_CHARS.exec(this.text);
    if (text.length > NUMBER_CHARS_MAX) this.fail(`a number has more than ${NUMBER_CHARS_MAX} characters (S-1.5)`);
    this.position += text.length;
    if (!NUMBER.test(text)) this.fail('not a number of JSON');
    const value = Number(text);
    const isPlainInteger = INTEGER.test(text) && Math.abs(value) <= INTEGER_MAX && !Object.is(value, -0);
    return isPlainInteger ? value : this.keepText(text);
  }

  /** Short texts share one JsonNumber (S-9.1). */
  keepText(text) {
    if (text.length > 3) return new JsonNumber(text);
    if (!this.shortNumbers.has(text)) this.shortNumbers.set(text, new JsonNumber(text));
    return this.shortNumbers.get(text);
  }

  readString() {
    const parts = [];
    let start = ++this.position;
    for (;;) {
      const unit = this.text.charCodeAt(this.position); // NaN past the end
      if (unit === QUOTE) {
        const rest = this.text.slice(start, this.position++);
        if (parts.length === 0) return rest;
        parts.push(rest);
        return parts.join('');
      }
      if (unit === BACKSLASH) {
        parts.push(this.text.slice(start, this.position));
        parts.push(this.readEscape());
        start = this.position;
      } else if (unit >= 0x20) {
        this.position++;
      } else {
        this.fail('a control character or the end of the text in a string');
      }
    }
  }

  readEscape() {
    const char = this.text[this.position + 1];
    if (char === 'u') return this.readUnicodeEscape();
    const value = SIMPLE_ESCAPES.get(char);
    if (value === undefined) this.fail('not an escape of JSON');
    this.position += 2;
    return value;
  }

  /** `\uXXXX`, or two of them for a pair; a surrogate without its partner is noted for step 5 (S-1.3). */
  readUnicodeEscape() {
    const start = this.position;
    const digits = this.text.slice(start + 2, start + 6);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail('\\u needs four hexadecimal digits');
    this.position += 6;
    const unit = parseInt(digits, 16);
    if (unit < 0xd800 || unit > 0xdfff) return String.fromCharCode(unit);
    const next = this.text.slice(start + 6, start + 12);
    if (unit < 0xdc00 && LOW_SURROGATE_ESCAPE.test(next)) {
      this.position += 6;
      return String.fromCharCode(unit, parseInt(next.slice(2), 16));
    }
    this.unpairedSurrogate ??= start;
    return String.fromCharCode(unit);
  }

  skipWhitespace() {
    for (;;) {
      const unit = this.text.charCodeAt(this.position);
      if (unit !== 0x20 && unit !== 0x0a && unit !== 0x0d && unit !== 0x09) return;
      this.position++;
    }
  }
}

const SHORT_ESCAPES = new Map([
  ['"', '\\"'], ['\\', '\\\\'], ['\b', '\\b'], ['\t', '\\t'], ['\n', '\\n'], ['\f', '\\f'], ['\r', '\\r'],
]);

/** S-11.1: a string in canonical JSON. */
function canonicalString(value) {
  const escape = (unit) => SHORT_ESCAPES.get(unit) ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return `"${value.replace(/["\\]|[^\x20-\x7e]/g, escape)}"`;
}

/**
 * S-11.1: canonical JSON of a value without JsonNumbers, handed over piece by piece.
 *
 * @param {any} value
 * @param {(piece: string) => void} write
 */
export function writeCanonical(value, write) {
  if (typeof value === 'string') write(canonicalString(value));
  else if (Array.isArray(value)) {
    write('[');
    value.forEach((element, i) => {
      if (i > 0) write(',');
      writeCanonical(element, write);
    });
    write(']');
  } else if (value instanceof JsonObject) {
    write('{');
    const members = [...value.entries()].sort((a, b) => compareCodePoints(a[0], b[0]));
    members.forEach(([key, member], i) => {
      write(`${i > 0 ? ',' : ''}${canonicalString(key)}:`);
      writeCanonical(member, write);
    });
    write('}');
  } else write(String(value)); // an integer, true, false or null
}

/**
 * S-11.1: canonical JSON as one string. Equal JSON values have equal texts.
 *
 * @param {any} value
 * @returns {string}
 */
export function canonicalJson(value) {
  const pieces = [];
  writeCanonical(value, (piece) => pieces.push(piece));
  return pieces.join('');
}
