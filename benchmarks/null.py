"""``python -m benchmarks.null``: rejections by the tests against constant noise, where noise is constant and where not.

In simulated runs of two tasks, the quantized model is the base model with noise of a kind. Where the noise does not
depend on the base model's confidence, a test at 5 % must reject in 5 % of runs; otherwise the more the better.
"""

import argparse
from collections.abc import Callable

import numpy as np

from eval.analysis.items import BUCKETS
from eval.analysis.null import constant_noise
from qconf.run.choices import Choices
from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.calibration import bin_of, equal_mass_edges

TESTS = ("flip_trend", "kl_trend", "shift_trend", "log_odds_trend")
Noise = Callable[[np.random.Generator, Floats, Ints, tuple[int, ...]], Floats]

NOISES: dict[str, Noise] = {
    "constant": lambda rng, sure, task, shape: rng.normal(0, 0.4, shape),
    "constant, heavy tails": lambda rng, sure, task, shape: np.asarray(0.3 * rng.standard_t(2.5, shape)),
    "constant in each task": lambda rng, sure, task, shape: rng.normal(0, 1, shape) * (0.1 + 0.6 * task)[:, None],
    "larger where unsure": lambda rng, sure, task, shape: rng.normal(0, 0.4, shape) * (1.75 - sure)[:, None],
    "larger where sure": lambda rng, sure, task, shape: rng.normal(0, 0.4, shape) * (0.25 + sure)[:, None],
}


def main() -> None:
    """Print a table in Markdown: a row for each kind of noise, a column for each test.

    With 79 permutations, as with 39, a two-sided p-value can be exactly 5 %.
    """
    parser = argparse.ArgumentParser(description="Level and power of the tests against constant noise.")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--permutations", type=int, default=79)
    options = parser.parse_args()
    print(f"| noise | {' | '.join(TESTS)} |\n| --- |{' ---: |' * len(TESTS)}")
    for name, noise in NOISES.items():
        rng = np.random.default_rng(0)
        found = [rejects(simulated(rng, options.items, noise), rng, options.permutations) for _ in range(options.runs)]
        shares = " | ".join(f"{100 * share:.1f} %" for share in np.mean(found, axis=0))
        print(f"| {name} | {shares} |", flush=True)


def rejects(choices: Choices, rng: np.random.Generator, permutations: int) -> list[bool]:
    """Return whether each test has p <= 5 %."""
    confidence = choices.base.confidence
    null = constant_noise(choices, bin_of(confidence, equal_mass_edges(confidence, BUCKETS)), rng, permutations)
    return [getattr(null, name).p_value <= 0.05 for name in TESTS]


def simulated(
    rng: np.random.Generator, items: int, noise: Noise, *, width: int = 4, step: float | None = None
) -> Choices:
    """Simulate items of two tasks, the second harder; ``step`` rounds the base's log-likelihoods, for ties."""
    task, labels = np.arange(items) % 2, rng.integers(width, size=items)
    base = rng.normal(-20, 2.0, (items, width))
    base[np.arange(items), labels] += 2.0 - task
    base = np.round(base / step) * step if step else base
    confidence = np.exp(base.max(axis=1) - np.logaddexp.reduce(base, axis=1))
    return Choices(
        tasks=("easy", "hard"),
        task=task,
        doc_id=np.arange(items),
        labels=labels,
        sizes=np.full(items, width),
        base_logprobs=base,
        quantized_logprobs=base + noise(rng, confidence, task, base.shape),
        chars=np.full(base.shape, 8),
    )


if __name__ == "__main__":
    main()
