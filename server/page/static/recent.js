/** The strip: what the server did in the last minutes. */

import { ask } from "./api.js";
import { element } from "./dom.js";
import { format, percent } from "./numbers.js";

const EVERY_MS = 5000;

/** Keep the strip up to date while the page is visible; `variant()` names the variant whose numbers it shows. */
export function watchRecent(container, variant) {
  async function update() {
    if (document.hidden) return;
    try {
      draw(container, await ask("page/recent"), variant());
    } catch {
      container.replaceChildren(); // requests of the user report what is wrong
    }
  }
  setInterval(update, EVERY_MS);
  return update;
}

function draw(container, { requests_per_second: rate, p95_ms: p95, variants }, name) {
  const { mean_kl: kl, flip_rate: flips, items } = variants[name] ?? {};
  const facts = [
    ["requests/s", rate === 0 ? "0" : rate < 0.01 ? "<0.01" : rate < 0.1 ? rate.toFixed(2) : format(rate)],
    ["p95", p95 === null ? "–" : p95 < 1000 ? `${Math.round(p95)} ms` : `${(p95 / 1000).toFixed(1)} s`],
    ["mean KL", format(kl)],
    ["flips", flips === null ? "–" : percent(flips), `of ${items} items`],
  ];
  container.title = "The last five minutes of this server";
  container.replaceChildren(...facts.map(([name_, value, title = ""]) =>
    element("div", { title }, element("dt", {}, name_), element("dd", {}, value))));
}
