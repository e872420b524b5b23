/** The form: read a request from it, and write one into it. */

import { ApiError } from "./api.js";
import { byId, element } from "./dom.js";

const TOP = 10;
const ROLES = ["system", "user", "assistant"];
const SAMPLING = [
  { id: "max-tokens", field: "max_tokens", name: "Tokens", initial: 48 },
  { id: "temperature", field: "temperature", name: "Temperature", initial: 0 },
  { id: "top-p", field: "top_p", name: "Top p", initial: 1 },
  { id: "seed", field: "seed", name: "Seed", initial: null },
];

export class RequestForm {
  constructor() {
    this.form = byId("request");
    this.ids = null;
    byId("mode").addEventListener("change", () => this.#showMode());
    byId("add-message").addEventListener("click", () => this.#addMessage("user", "").focus());
    byId("add-choice").addEventListener("click", () => this.#addChoice("").focus());
    byId("generate-from").addEventListener("change", () => this.#showSampling());
    byId("prompt").addEventListener("input", () => this.#setIds(null));
    this.form.addEventListener("input", () => this.clearErrors());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    this.#addMessage("user", "");
  }

  /** Offer the answers of these models. */
  setModels(variants) {
    const names = [["", "nobody"], ["both", variants.length > 1 ? "all models" : "both models"], ["base", "base"], ...variants.map((name) => [name, name])];
    byId("generate-from").replaceChildren(...names.map(([value, text]) => element("option", { value }, text)));
  }

  /** Offer no chat, for tokenizers without a chat template. */
  refuseChat() {
    const chat = this.form.querySelector('[name=mode][value="chat"]');
    chat.disabled = true;
    chat.parentElement.title = "This model's tokenizer has no chat template.";
  }

  /** Return the request. ApiError names a field that is not a number. */
  read() {
    const request = this.mode === "chat" ? { messages: this.#messages() } : { prompt: this.ids ?? byId("prompt").value };
    const rows = this.#choiceRows().filter((row) => row.text.value !== "");
    if (rows.length) request.continuations = rows.map((row) => row.text.value);
    const label = rows.findIndex((row) => row.truth.checked);
    if (label >= 0) request.label = label;
    request.top_logprobs = TOP;
    if (byId("generate-from").value) this.#readSampling(request);
    return request;
  }

  /** Fill the form with a request. */
  write(request) {
    const chat = Array.isArray(request.messages);
    this.form.elements.mode.value = chat ? "chat" : "text";
    byId("messages").replaceChildren();
    for (const { role, content } of chat ? request.messages : [{ role: "user", content: "" }]) this.#addMessage(role, content);
    const ids = Array.isArray(request.prompt) ? request.prompt : null;
    byId("prompt").value = ids || chat ? "" : String(request.prompt ?? "");
    this.#setIds(ids);
    byId("choices").replaceChildren();
    (Array.isArray(request.continuations) ? request.continuations : []).forEach((text, index) => this.#addChoice(text, index === request.label));
    byId("generate-from").value = request.max_tokens ? (request.generate_from ?? "both") : "";
    if (request.max_tokens) for (const { id, field, initial } of SAMPLING) byId(id).value = request[field] ?? initial ?? "";
    this.#showMode();
    this.#showSampling();
  }

  /** Have both models go on from these ids. Their text is shown; the ids are sent until it is edited. */
  continueFrom(ids) {
    this.form.elements.mode.value = "text";
    byId("choices").replaceChildren();
    if (!byId("generate-from").value) byId("generate-from").value = "both";
    this.#setIds(ids);
    this.#showMode();
    this.#showSampling();
  }

  /** Mark the field that an error names. */
  markError(param) {
    const choice = /^continuations\[(\d+)\]/.exec(param ?? "");
    const field = choice ? this.#choiceRows()[Number(choice[1])]?.text
      : byId(SAMPLING.find(({ field: name }) => name === param)?.id) ?? byId({ prompt: "prompt", generate_from: "generate-from" }[param]);
    field?.setAttribute("aria-invalid", "true");
  }

  clearErrors() {
    for (const field of this.form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    byId("error").hidden = true;
  }

  get mode() {
    return this.form.elements.mode.value;
  }

  #setIds(ids) {
    this.ids = ids;
    byId("as-ids").hidden = !ids;
    if (ids) byId("as-ids").textContent = `Sent as ${ids.length} token ids until you edit the text.`;
  }

  #showMode() {
    byId("chat").hidden = this.mode !== "chat";
    byId("text").hidden = this.mode === "chat";
  }

  #showSampling() {
    byId("sampling").hidden = !byId("generate-from").value;
  }

  #messages() {
    return [...byId("messages").children].map((row) => ({ role: row.querySelector("select").value, content: row.querySelector("textarea").value }));
  }

  #choiceRows() {
    return [...byId("choices").children].map((row) => ({ text: row.querySelector("[type=text]"), truth: row.querySelector("[type=checkbox]") }));
  }

  #readSampling(request) {
    request.generate_from = byId("generate-from").value;
    for (const { id, field, name, initial } of SAMPLING) {
      const text = byId(id).value.trim();
      const value = text === "" ? initial : Number(text);
      if (Number.isNaN(value)) throw new ApiError(`${name} is “${text}”, expected a number.`, { param: field });
      if (value !== initial || field === "max_tokens") request[field] = value;
    }
  }

  #addMessage(role, content) {
    const options = ROLES.map((name) => element("option", { value: name, selected: name === role }, name));
    const text = element("textarea", { rows: 2, value: content, ariaLabel: "Message", spellcheck: false });
    byId("messages").append(element("li", {}, element("div", {}, element("select", { ariaLabel: "Role" }, ...options), remover("message")), text));
    return text;
  }

  #addChoice(content, isTrue = false) {
    const text = element("input", { type: "text", value: content, ariaLabel: "Choice", spellcheck: false, placeholder: "usually begins with a space" });
    const truth = element("input", { type: "checkbox", checked: isTrue, ariaLabel: "The true choice", title: "The true choice",
      onchange: () => this.#choiceRows().forEach((row) => (row.truth.checked &&= row.truth === truth)) });
    byId("choices").append(element("li", {}, truth, text, remover("choice")));
    return text;
  }
}

const remover = (what) => element("button", { type: "button", className: "remove", ariaLabel: `Remove ${what}`, title: `Remove ${what}`,
  onclick: ({ target }) => target.closest("li").remove() }, "×");
