/** The means of a comparison, in one line. */

import { element } from "./dom.js";
import { format, percent } from "./numbers.js";

export function drawSummary(container, { summary, continuations }) {
  const both = (pair, write) => [write(pair.base), element("span", { className: "arrow" }, "→"), write(pair.quantized)];
  const facts = [
    [continuations ? "tokens of choices" : "tokens", [String(summary.tokens)]],
    ["mean KL", [format(summary.mean_kl)]],
    ["max KL", [format(summary.max_kl)]],
    ["same likeliest", [percent(summary.agreement)]],
    ["perplexity", both(summary.perplexity, format)],
    ["confidence", both(summary.mean_confidence, percent)],
    ["entropy", both(summary.mean_entropy, format)],
  ];
  container.replaceChildren(...facts.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, ...value))));
}
