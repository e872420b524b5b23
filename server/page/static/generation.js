/** The models' answers side by side, while they come and when they are complete. */

import { byId, element } from "./dom.js";
import { format } from "./numbers.js";
import { named } from "./tokens.js";

const ENDS = { stop: "ended", length: "cut at its limit" };

/** Draw complete answers; `viewOf(label, scores)` draws the tokens of one. */
export function drawGeneration(generation, variant, viewOf) {
  byId("generation").hidden = !generation;
  if (!generation) return;
  const answers = [["base", "base", generation.base], ["quantized", variant, generation.quantized]].filter(([, , answer]) => answer);
  byId("answers").replaceChildren(...answers.map(([role, name, answer]) => {
    const view = viewOf(`answer of ${name}`, answer.scores);
    if (generation.fork) view.spans[generation.fork.index]?.classList.add("fork");
    const tokens = `${answer.token_ids.length} tokens, ${ENDS[answer.finish_reason]}, mean KL ${format(answer.summary.mean_kl)}`;
    return column(role, name, tokens, view);
  }));
  byId("fork").textContent = sentence(generation, answers.length);
}

function column(role, name, note, view) {
  const heading = element("h3", {}, element("span", { className: `key ${role}` }), name);
  return element("section", {}, heading, element("p", { className: "note" }, note), view.container);
}

function sentence({ fork, common_prefix: common }, answers) {
  if (answers < 2) return "";
  const tokens = `${common} ${common === 1 ? "token" : "tokens"}`;
  if (!fork) return common ? `Both answers are the same ${tokens}.` : "Both answers are empty.";
  const [base, quantized] = [fork.tokens.base, fork.tokens.quantized].map((text) => `“${named(text.trim() || text)}”`);
  return `After ${tokens} alike the answers part: the base goes on with ${base}, the quantized model with ${quantized} (KL ${format(fork.kl)}).`;
}

/** The answers of a stream, which grow by a token at a time. */
export class GrowingAnswers {
  constructor(variant, viewOf) {
    this.variant = variant;
    this.viewOf = viewOf;
    this.views = new Map();
    this.tokens = 0;
    byId("generation").hidden = false;
    byId("fork").textContent = "";
    byId("answers").replaceChildren();
  }

  /** Add a token to the answers that it belongs to. */
  add({ models, scores }) {
    this.tokens += 1;
    for (const name of models) {
      if (name !== "base" && name !== this.variant) continue;
      const view = this.views.get(name) ?? this.#begin(name);
      view.append(scores);
    }
  }

  #begin(name) {
    const view = this.viewOf(`answer of ${name}`);
    this.views.set(name, view);
    const section = column(name === "base" ? "base" : "quantized", name, "…", view);
    if (name === "base") byId("answers").prepend(section);
    else byId("answers").append(section);
    return view;
  }
}
