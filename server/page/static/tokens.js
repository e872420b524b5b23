/** A sequence of scored tokens: drawn, coloured, walked through by pointer and by keyboard. */

import { element, rove } from "./dom.js";
import { format } from "./numbers.js";

/** Texts of the tokenizer's special tokens; those of chat templates have the form <|name|>. */
export const specials = new Set();
const isSpecial = (text) => specials.has(text) || /^<\|.*\|>$/.test(text);
const INVISIBLE = { "\n": "newline", "\r": "return", "\t": "tab" };

/** Return the text of a token as it is named in sentences. */
export const named = (text) => (text === "" ? "(no text)" : JSON.stringify(text).slice(1, -1));

/** Return nodes that show a token's text. Marks of white space are drawn by the style sheet and are not copied. */
export function shown(text) {
  if (text === "") return [element("span", { className: "empty", ariaHidden: "true" })];
  return text.split(/([\n\r\t]|^ +$| {2,})/).filter(Boolean).map((part) => {
    const kind = INVISIBLE[part] ?? (/^ +$/.test(part) ? "spaces" : null);
    return kind ? element("span", { className: kind }, part) : part;
  });
}

/** Return nodes that spell a token, with a mark for each space at its ends. */
export function spelled(text) {
  const [, before, middle, after] = /^( *)(.*?)( *)$/s.exec(text);
  const dots = (spaces) => (spaces ? [element("span", { className: "spelled" }, "·".repeat(spaces.length))] : []);
  return [...dots(before), ...(middle || !text ? shown(middle) : []), ...dots(after)];
}

/** Return the columns with those of the next tokens appended. */
function extend(columns, next) {
  for (const [name, column] of Object.entries(next)) {
    if (Array.isArray(column)) columns[name] = [...(columns[name] ?? []), ...column];
    else if (column) columns[name] = extend(columns[name] ?? {}, column);
  }
  return columns;
}

export class TokenView {
  /** `label` names the sequence, `context` has the ids of all tokens before it. */
  constructor(label, context, inspector) {
    this.label = label;
    this.context = context;
    this.scores = null;
    this.spans = [];
    this.container = element("div", { className: "tokens", role: "listbox", ariaLabel: label });
    const over = (event) => this.spans.indexOf(event.target.closest(".token"));
    const at = (event) => Number(event.target.closest(".token")?.dataset.index ?? -1);
    this.container.addEventListener("pointerover", (event) => at(event) >= 0 && inspector.show(this, at(event)));
    this.container.addEventListener("focusin", (event) => {
      if (at(event) < 0) return;
      this.#describe(at(event));
      inspector.show(this, at(event));
    });
    this.container.addEventListener("click", (event) => at(event) >= 0 && inspector.pin(this, at(event)));
    this.container.addEventListener("keydown", (event) => this.#key(event, over(event), inspector));
    rove(this.container, []);
  }

  /** Draw more tokens. */
  append(scores) {
    this.scores = this.scores ? extend(this.scores, scores) : scores;
    const from = this.spans.length;
    const added = scores.tokens.map((text, index) => this.#span(text, from + index));
    if (!from && added.length) added[0].tabIndex = 0;
    this.spans.push(...added);
    this.container.append(...added);
    return added;
  }

  /** Return the ids of everything before a token. */
  before(index) {
    return [...this.context, ...this.scores.token_ids.slice(0, index)];
  }

  values(quantity) {
    return this.spans.map((_, index) => quantity.of(this.scores, index));
  }

  /** Colour the tokens, and select those in the bars, if there are any. */
  paint(scale, bars) {
    this.scale = scale;
    this.values(scale.quantity).forEach((value, index) => {
      const span = this.spans[index];
      scale.paint(span, value);
      const selected = bars.size > 0 && value !== null && bars.has(scale.barOf(value));
      span.classList.toggle("selected", selected);
      span.ariaSelected = String(selected);
    });
    this.container.classList.toggle("selecting", bars.size > 0);
  }

  #span(text, index) {
    const span = element("span", { className: "token", role: "option", tabIndex: -1, dataset: { index } }, ...shown(text));
    if (isSpecial(text)) span.classList.add("special");
    if (text.includes("\ufffd")) span.classList.add("part");
    if (this.scores.agree[index] === false) span.classList.add("differs");
    return span;
  }

  #describe(index) {
    const { quantity } = this.scale ?? {};
    const value = quantity ? `, ${quantity.label} ${format(quantity.of(this.scores, index))}${quantity.unit}` : "";
    this.spans[index].ariaLabel = `${named(this.scores.tokens[index])}${value}`;
  }

  #key(event, index, inspector) {
    if (index < 0) return;
    const target = {
      ArrowRight: () => index + 1,
      ArrowLeft: () => index - 1,
      Home: () => 0,
      End: () => this.spans.length - 1,
      ArrowDown: () => this.#line(index, 1),
      ArrowUp: () => this.#line(index, -1),
    }[event.key]?.();
    if (target !== undefined) this.spans[target]?.focus();
    else if (event.key === "Enter" || event.key === " ") inspector.pin(this, index);
    else return;
    event.preventDefault();
  }

  /** Return the token above or below. */
  #line(index, step) {
    const from = this.spans[index].getBoundingClientRect();
    let best = index;
    let line = null;
    for (let next = index + step; this.spans[next]; next += step) {
      const box = this.spans[next].getBoundingClientRect();
      if (Math.abs(box.bottom - from.bottom) < from.height / 2) continue;
      line ??= box.bottom;
      if (Math.abs(box.bottom - line) > box.height / 2) break;
      if (best === index || Math.abs(box.left - from.left) < Math.abs(this.spans[best].getBoundingClientRect().left - from.left)) best = next;
    }
    return best;
  }
}
