/** Paired bars: a probability under each model, the base above the quantized model. */

import { element } from "./dom.js";
import { percent } from "./numbers.js";

/** Return two bars and their numbers. A number that is only known to be below a bound is `{ below: bound }`. */
export function pairedBars(base, quantized) {
  const pair = [["base", base], ["quantized", quantized]];
  const bars = element("span", { className: "bars", ariaHidden: "true" }, ...pair.map(([name, value]) => {
    const bar = element("span", { className: `bar ${name}` });
    bar.style.setProperty("width", `${100 * (typeof value === "number" ? value : 0)}%`);
    return bar;
  }));
  const numbers = pair.map(([name, value]) => element("span", { className: `number ${name}` }, written(value)));
  return [bars, ...numbers];
}

const written = (value) => (typeof value === "number" ? percent(value) : `<${percent(value.below).replace("<", "")}`);
