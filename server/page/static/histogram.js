/** The histogram of the quantity that colours the tokens. It is the legend too: a bar has the colour of its tokens. */

import { element, rove } from "./dom.js";
import { short } from "./numbers.js";

/** Draw the bars; `onSelect` gets the set of the selected ones whenever it changes. */
export class Histogram {
  constructor(container, axis, onSelect) {
    this.container = container;
    this.axis = axis;
    this.selected = new Set();
    container.addEventListener("click", ({ target }) => {
      const bar = target.closest("button");
      if (!bar) return;
      const number = Number(bar.dataset.bar);
      if (!this.selected.delete(number)) this.selected.add(number);
      this.#mark();
      onSelect(this.selected);
    });
    container.addEventListener("keydown", (event) => this.#move(event));
    rove(container, []);
  }

  draw(scale, values, selected = []) {
    this.selected = new Set(selected.filter((bar) => Number.isInteger(bar) && bar >= 0 && bar < scale.bars));
    const counts = Array(scale.bars).fill(0);
    for (const value of values) if (value !== null) counts[scale.barOf(value)] += 1;
    const most = Math.max(1, ...counts);
    const bars = counts.map((count, bar) => {
      const [low, high] = scale.edges(bar);
      const ends = [low, high].map((edge) => short(scale.valueAt(edge)));
      if (low === -1) ends[0] = "less";
      if (high === 1) ends[1] = "more";
      const label = `${scale.quantity.label} ${ends[0]} to ${ends[1]}${scale.quantity.unit}: ${count} ${count === 1 ? "token" : "tokens"}`;
      const fill = element("span");
      fill.style.setProperty("height", count ? `max(3px, ${(100 * count) / most}%)` : "0");
      const middle = (low + high) / 2;
      const button = element("button", { type: "button", ariaLabel: label, title: label, tabIndex: -1, dataset: { bar } }, fill);
      button.disabled = !count;
      button.dataset.hue = scale.hue(middle);
      button.style.setProperty("--level", Math.abs(middle).toFixed(3));
      return button;
    });
    this.container.replaceChildren(...bars);
    const first = bars.find((bar) => !bar.disabled);
    if (first) first.tabIndex = 0;
    this.#mark();
    this.axis.replaceChildren(...scale.ticks.map((level) => {
      const end = Math.abs(level) === 1 ? (level > 0 ? "≥ " : "≤ ") : "";
      return element("span", {}, `${end}${short(scale.valueAt(level))}${level === 1 ? scale.quantity.unit : ""}`);
    }));
  }

  #mark() {
    for (const bar of this.container.children) bar.ariaPressed = String(this.selected.has(Number(bar.dataset.bar)));
  }

  #move(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const bars = [...this.container.children].filter((bar) => !bar.disabled);
    bars[bars.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  }
}
