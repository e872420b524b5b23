/** The part of the form that says whose answers are generated, how they are drawn and where they end. */

import { ApiError } from "./api.js";
import { byId, element, remover } from "./dom.js";

const NUMBERS = [
  { id: "max-tokens", field: "max_tokens", name: "Tokens", initial: 48 },
  { id: "temperature", field: "temperature", name: "Temperature", initial: 0 },
  { id: "top-p", field: "top_p", name: "Top p", initial: 1 },
  { id: "seed", field: "seed", name: "Seed", initial: null },
];
const ESCAPES = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

export class AnswerFields {
  constructor() {
    byId("generate-from").addEventListener("change", () => this.#show());
    byId("add-stop").addEventListener("click", () => this.#addStop("").focus());
  }

  /** Offer the answers of these models. */
  setModels(variants) {
    const names = [["", "nobody"], ["both", variants.length > 1 ? "all models" : "both models"], ["base", "base"], ...variants.map((name) => [name, name])];
    byId("generate-from").replaceChildren(...names.map(([value, text]) => element("option", { value }, text)));
  }

  /** Have both models answer, where nobody does yet. */
  ask() {
    if (!byId("generate-from").value) byId("generate-from").value = "both";
    this.#show();
  }

  /** Add what is filled in to a request. ApiError names a field that is not a number. */
  read(request) {
    if (!byId("generate-from").value) return;
    request.generate_from = byId("generate-from").value;
    for (const { id, field, name, initial } of NUMBERS) {
      const text = byId(id).value.trim();
      const value = text === "" ? initial : Number(text);
      if (Number.isNaN(value)) throw new ApiError(`${name} is “${text}”, expected a number.`, { param: field });
      if (value !== initial || field === "max_tokens") request[field] = value;
    }
    const stops = this.#stops().map((input) => unescaped(input.value)).filter((text) => text !== "");
    if (stops.length) request.stop = stops;
    if (byId("ignore-eos").checked) request.ignore_eos = true;
  }

  /** Fill in what a request says. */
  write(request) {
    byId("generate-from").value = request.max_tokens ? (request.generate_from ?? "both") : "";
    if (request.max_tokens) for (const { id, field, initial } of NUMBERS) byId(id).value = request[field] ?? initial ?? "";
    byId("stops").replaceChildren();
    for (const text of [request.stop ?? []].flat()) this.#addStop(text);
    byId("ignore-eos").checked = request.ignore_eos === true;
    this.#show();
  }

  /** Return the element of a request's field, if it has one. */
  element(field) {
    if (field === "stop") return this.#stops()[0];
    return byId(NUMBERS.find(({ field: name }) => name === field)?.id) ?? byId({ generate_from: "generate-from", ignore_eos: "ignore-eos" }[field]);
  }

  #show() {
    byId("drawing").hidden = !byId("generate-from").value;
  }

  #stops() {
    return [...byId("stops").querySelectorAll("input")];
  }

  #addStop(text) {
    const input = element("input", { type: "text", value: escaped(text), ariaLabel: "Stop text", spellcheck: false, placeholder: "\\n is a line break" });
    byId("stops").append(element("li", {}, input, remover("stop text")));
    return input;
  }
}

/** A field of one line cannot hold line breaks: they are written with backslashes, and so are backslashes. */
const escaped = (text) => text.replaceAll(/[\\\n\r\t]/g, (character) => ESCAPES[character]);
const unescaped = (text) => text.replaceAll(/\\[\\nrt]/g, (written) => Object.keys(ESCAPES).find((character) => ESCAPES[character] === written));
