/** Write numbers for people. */

/** Return three significant digits, fewer of what is tiny, "–" for null. */
export function format(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4) return value.toExponential(1).replace("-", "−").replace("e-", "e−");
  if (size >= 10000) return Math.round(value).toLocaleString("en").replace("-", "−");
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(size))));
  return value.toFixed(digits).replace("-", "−");
}

/** Return at most three significant digits, without zeros at the end. */
export const short = (value) => format(value).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");

/** Return the number with its sign. */
export const signed = (value) => (value > 0 ? `+${format(value)}` : format(value));

/** Return a change of a probability in percentage points. */
export function signedPoints(change) {
  const text = Math.abs(100 * change).toFixed(1);
  return `${text === "0.0" ? "" : change > 0 ? "+" : "−"}${text} pp`;
}

/** Return a probability in percent with one digit after the point. */
export function percent(probability) {
  if (probability === null || probability === undefined) return "–";
  if (probability > 0 && probability < 0.0005) return "<0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}
