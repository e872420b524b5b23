/** The quantities that colour tokens, and the scale from a value to a colour and to a bar of the histogram. */

const SEQUENTIAL_BARS = 24;
const COVERED = 0.98;

const change = (quantized, base) => (quantized === null || base === null ? null : quantized - base);

/** `hues` are of values below and above 0; a quantity with one hue is never negative. `root` widens small values. */
export const QUANTITIES = {
  kl: {
    label: "KL", unit: " nats", hues: ["both"], root: true,
    about: "KL(base || quantized) of the distributions that predict the token",
    of: (scores, index) => scores.kl[index],
  },
  logprob: {
    label: "Δ log-prob", unit: " nats", hues: ["base", "quantized"], root: true,
    about: "change of the token's log-probability: orange where the quantized model finds it likelier, blue where the base does",
    of: (scores, index) => change(scores.quantized.logprobs[index], scores.base.logprobs[index]),
  },
  confidence: {
    label: "Δ confidence", unit: "", hues: ["base", "quantized"], root: true,
    about: "change of the largest probability: orange where the quantized model is surer, blue where the base is",
    of: (scores, index) => change(scores.quantized.confidence[index], scores.base.confidence[index]),
  },
  base_entropy: {
    label: "Entropy, base", unit: " nats", hues: ["base"], root: false,
    about: "entropy of the base model's distribution",
    of: (scores, index) => scores.base.entropy[index],
  },
  quantized_entropy: {
    label: "Entropy, quantized", unit: " nats", hues: ["quantized"], root: false,
    about: "entropy of the quantized model's distribution",
    of: (scores, index) => scores.quantized.entropy[index],
  },
};

/** Return the smallest of 1, 2, 5, 10, ... that is not below the value. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * (1 - 1e-9));
}

/** A scale whose end covers 98 % of the values; the rest have the colour of the end. */
export class Scale {
  constructor(name, values) {
    this.quantity = QUANTITIES[name];
    this.diverging = this.quantity.hues.length === 2;
    const sizes = values.filter((value) => value !== null).map(Math.abs).sort((one, other) => one - other);
    const covering = sizes[Math.floor(COVERED * (sizes.length - 1))] ?? 0;
    this.limit = nice(Math.max(covering, 1e-6));
    this.bars = SEQUENTIAL_BARS;
  }

  /** Return where a value lies on the scale: 0 to 1, or -1 to 1 where it diverges. */
  level(value) {
    const share = Math.min(1, Math.abs(value) / this.limit);
    return Math.sign(value) * (this.quantity.root ? Math.sqrt(share) : share);
  }

  /** Return the value at a level. */
  valueAt(level) {
    return Math.sign(level) * (this.quantity.root ? level * level : Math.abs(level)) * this.limit;
  }

  /** Return the hue of a level. */
  hue(level) {
    return this.quantity.hues[this.diverging && level > 0 ? 1 : 0];
  }

  /** Return the bar of the histogram that a value belongs to. */
  barOf(value) {
    const place = this.diverging ? (this.level(value) + 1) / 2 : this.level(value);
    return Math.min(this.bars - 1, Math.floor(place * this.bars));
  }

  /** Return the levels between which a bar lies. */
  edges(bar) {
    return [bar, bar + 1].map((edge) => (this.diverging ? (2 * edge) / this.bars - 1 : edge / this.bars));
  }

  /** Return the levels that the axis names. */
  get ticks() {
    return this.diverging ? [-1, -0.5, 0, 0.5, 1] : [0, 0.5, 1];
  }

  /** Colour an element by a value; null leaves it plain. */
  paint(target, value) {
    const level = value === null ? 0 : this.level(value);
    target.dataset.hue = this.hue(level);
    target.style.setProperty("--level", Math.abs(level).toFixed(3));
  }
}
