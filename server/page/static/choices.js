/** The choices of a comparison as paired bars, with what each model chose. */

import { pairedBars } from "./bars.js";
import { byId, element } from "./dom.js";
import { named } from "./tokens.js";

/** Draw the choices; `viewOf(continuation)` draws the tokens of one. */
export function drawChoices(scores, viewOf) {
  const { continuations, choice } = scores;
  byId("choice-result").hidden = !continuations;
  if (!continuations) return;
  const rows = continuations.map((continuation, index) => {
    const marks = [["base", choice?.base === index], ["quantized", choice?.quantized === index], ["true", choice?.label === index]]
      .filter(([, marked]) => marked)
      .map(([name]) => element("span", { className: `mark ${name}` }, name));
    return element("li", {}, viewOf(continuation).container, element("span", { className: "marks" }, ...marks),
      ...pairedBars(continuation.base.confidence, continuation.quantized.confidence));
  });
  byId("choice-rows").replaceChildren(...rows);
  const flip = byId("flip");
  flip.hidden = !choice;
  flip.classList.toggle("flipped", Boolean(choice?.flip));
  if (choice) flip.textContent = sentence(continuations, choice);
}

function sentence(continuations, { base, quantized, flip }) {
  const name = (index) => `“${named(continuations[index].text.trim())}”`;
  return flip
    ? `The answer flips: the base chooses ${name(base)}, the quantized model ${name(quantized)}.`
    : `Both models choose ${name(base)}.`;
}
