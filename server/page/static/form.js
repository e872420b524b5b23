/** The form: read a request from it, and write one into it. */

import { AnswerFields } from "./answer.js";
import { byId, element, remover } from "./dom.js";

const TOP = 10;
const ROLES = ["system", "user", "assistant"];

export class RequestForm {
  constructor() {
    this.form = byId("request");
    this.answer = new AnswerFields();
    this.ids = null;
    byId("mode").addEventListener("change", () => this.#showMode());
    byId("add-message").addEventListener("click", () => this.#addMessage("user", "").focus());
    byId("add-choice").addEventListener("click", () => this.#addChoice("").focus());
    byId("prompt").addEventListener("input", () => this.#setIds(null));
    this.form.addEventListener("input", () => this.clearErrors());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    this.#addMessage("user", "");
  }

  /** Offer no chat, for tokenizers without a chat template. */
  refuseChat() {
    const chat = this.form.querySelector('[name=mode][value="chat"]');
    chat.disabled = true;
    chat.parentElement.title = "This model's tokenizer has no chat template.";
  }

  /** Return the request. ApiError names a field that is not a number. */
  read() {
    const request = this.mode === "chat" ? this.#chat() : { prompt: this.ids ?? byId("prompt").value };
    const rows = this.#choiceRows().filter((row) => row.text.value !== "");
    if (rows.length) request.continuations = rows.map((row) => row.text.value);
    const label = rows.findIndex((row) => row.truth.checked);
    if (label >= 0) request.label = label;
    request.top_logprobs = TOP;
    this.answer.read(request);
    return request;
  }

  /** Fill the form with a request. */
  write(request) {
    const chat = Array.isArray(request.messages);
    this.form.elements.mode.value = chat ? "chat" : "text";
    byId("messages").replaceChildren();
    for (const { role, content } of chat ? request.messages : [{ role: "user", content: "" }]) this.#addMessage(role, content);
    byId("continue-final").checked = request.continue_final_message === true;
    const ids = Array.isArray(request.prompt) ? request.prompt : null;
    byId("prompt").value = ids || chat ? "" : String(request.prompt ?? "");
    this.#setIds(ids);
    byId("choices").replaceChildren();
    (Array.isArray(request.continuations) ? request.continuations : []).forEach((text, index) => this.#addChoice(text, index === request.label));
    this.answer.write(request);
    this.#showMode();
  }

  /** Have both models go on from these ids. Their text is shown; the ids are sent until it is edited. */
  continueFrom(ids) {
    this.form.elements.mode.value = "text";
    byId("choices").replaceChildren();
    this.answer.ask();
    this.#setIds(ids);
    this.#showMode();
  }

  /** Mark the field that an error names. */
  markError(param) {
    const choice = /^continuations\[(\d+)\]/.exec(param ?? "");
    const field = choice ? this.#choiceRows()[Number(choice[1])]?.text
      : this.answer.element(param) ?? byId({ prompt: "prompt", continue_final_message: "continue-final" }[param]);
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

  #chat() {
    const messages = [...byId("messages").children].map((row) => ({ role: row.querySelector("select").value, content: row.querySelector("textarea").value }));
    return byId("continue-final").checked ? { messages, continue_final_message: true } : { messages };
  }

  #choiceRows() {
    return [...byId("choices").children].map((row) => ({ text: row.querySelector("[type=text]"), truth: row.querySelector("[type=checkbox]") }));
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
