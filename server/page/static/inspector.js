/** What both models say at one token: its numbers, and their likeliest tokens as paired bars. */

import { pairedBars } from "./bars.js";
import { element } from "./dom.js";
import { format, percent, signed, signedPoints } from "./numbers.js";
import { named, spelled } from "./tokens.js";

export class Inspector {
  /** `onContinue` gets the ids before the token and the chosen alternative's id; `onPin` is called when that changes. */
  constructor(container, { onContinue, onPin }) {
    this.container = container;
    this.onContinue = onContinue;
    this.onPin = onPin;
    this.pinned = null;
    this.clear();
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.unpin());
  }

  clear() {
    this.#unmark();
    this.pinned = null;
    this.container.classList.remove("open");
    this.container.replaceChildren(element("p", { className: "note" }, "Point at a token for both models' likeliest ones. Click it to keep it here and go on from another."));
  }

  show(view, index) {
    if (!this.pinned) this.#draw(view, index);
  }

  /** Keep a token shown; the same one again lets it go. */
  pin(view, index) {
    const same = this.pinned?.view === view && this.pinned.index === index;
    this.#unmark();
    this.pinned = same ? null : { view, index };
    if (!same) view.spans[index].classList.add("pinned");
    this.#draw(view, index);
    this.onPin();
  }

  unpin() {
    if (!this.pinned) return;
    this.clear();
    this.onPin();
  }

  #unmark() {
    this.pinned?.view.spans[this.pinned.index]?.classList.remove("pinned");
  }

  #draw(view, index) {
    const { scores } = view;
    const parts = [
      element("div", { className: "head" },
        element("h2", {}, element("span", { className: "token-name" }, ...spelled(scores.tokens[index]))),
        element("button", { type: "button", className: "close", ariaLabel: "Close", onclick: () => this.clear() || this.onPin() }, "×")),
      element("p", { className: "note" }, `id ${scores.token_ids[index]}, token ${index + 1} of ${scores.tokens.length}, ${view.label}`),
    ];
    if (scores.kl[index] === null) parts.push(element("p", {}, "Nothing predicts the first token: it has no score."));
    else parts.push(numbers(scores, index), ...this.#alternatives(view, index));
    this.container.classList.add("open");
    this.container.replaceChildren(...parts);
  }

  #alternatives(view, index) {
    const { scores } = view;
    const rows = likeliest(scores.base.top?.[index], scores.quantized.top?.[index]);
    if (!rows.length) return [];
    const list = element("ol", { className: "alternatives" }, ...rows.map(({ id, text, base, quantized }) => {
      const hint = `Go on with ${named(text)}`;
      const button = element("button", { type: "button", title: hint, dataset: { id },
        onclick: () => this.onContinue(view.before(index), id) },
      element("span", { className: "alternative" }, ...spelled(text)), ...pairedBars(base, quantized));
      if (id === scores.token_ids[index]) button.classList.add("actual");
      return element("li", {}, button);
    }));
    return [element("h3", {}, "Likeliest tokens", element("span", { className: "key base" }), "base",
      element("span", { className: "key quantized" }), "quantized"), list,
    element("p", { className: "note" }, "Choose one to have the models go on from it.")];
  }
}

function numbers(scores, index) {
  const { base, quantized } = scores;
  const row = (name, write, one, other, delta) => element("tr", {}, element("th", { scope: "row" }, name),
    ...[write(one), write(other), delta].map((text) => element("td", {}, text)));
  const [p, q] = [base, quantized].map((model) => Math.exp(model.logprobs[index]));
  const table = element("table", {},
    element("thead", {}, element("tr", {}, ...["", "base", "quantized", "change"].map((name) => element("th", {}, name)))),
    element("tbody", {},
      row("probability", percent, p, q, signedPoints(q - p)),
      row("log-probability", format, base.logprobs[index], quantized.logprobs[index], signed(quantized.logprobs[index] - base.logprobs[index])),
      row("confidence", percent, base.confidence[index], quantized.confidence[index], signedPoints(quantized.confidence[index] - base.confidence[index])),
      row("entropy", format, base.entropy[index], quantized.entropy[index], signed(quantized.entropy[index] - base.entropy[index]))));
  const divergences = [["KL", scores.kl], ["reverse KL", scores.reverse_kl], ["JS", scores.js], ["total variation", scores.total_variation]];
  const list = element("dl", { className: "pairs" }, ...divergences.map(([name, column]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, format(column[index])))));
  return element("div", {}, table, list);
}

/** Return the tokens of both lists, likeliest first, with each probability or, beyond a list, its bound. */
function likeliest(base, quantized) {
  if (!base || !quantized) return [];
  const tables = [base, quantized].map((top) => new Map(top.token_ids.map((id, place) => [id, Math.exp(top.logprobs[place])])));
  const texts = new Map([base, quantized].flatMap((top) => top.token_ids.map((id, place) => [id, top.tokens[place]])));
  const bounds = [base, quantized].map((top) => Math.exp(Math.min(...top.logprobs)));
  const rows = [...texts].map(([id, text]) => {
    const [p, q] = tables.map((table, model) => table.get(id) ?? { below: bounds[model] });
    return { id, text, base: p, quantized: q };
  });
  const largest = ({ base: p, quantized: q }) => Math.max(...[p, q].filter((value) => typeof value === "number"));
  return rows.sort((one, other) => largest(other) - largest(one));
}
