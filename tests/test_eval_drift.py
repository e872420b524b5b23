"""Drift: distances against their definitions and scipy, thresholds against simulated windows, and the command."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from scipy import stats  # type: ignore[import-untyped]
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]

from qconf.run.choices import EvalError, read_choices
from qconf.run.folder import read_run
from qconf.run.reference import read_reference, run_samples
from qconf.statistics.arrays import Floats
from qconf.statistics.drift import ABSENT, CHANCE, COARSE, FEWEST, MODERATE, Distance, Reference, Sample, Scale
from tests.synthetic_run import items, tokens, window, write

Draw = Callable[[np.random.Generator, int], Sample]


def beta(rng: np.random.Generator, count: int) -> Sample:
    return Sample.independent(rng.beta(3, 2, count))


def texts(rng: np.random.Generator, count: int) -> Sample:
    """Return tokens in texts of 40 tokens; some texts are easy as a whole."""
    text = np.repeat(np.arange(count // 40), 40)
    return Sample(rng.normal(0, 0.5, count // 40)[text] + rng.normal(0, 1, count), text)


def distance(reference: Sample, sample: Sample) -> Distance:
    scale = Scale.of(reference)
    found = scale.distance(scale.sums(reference), scale.sums(sample))
    assert found is not None
    return found


def deciles(reference: Sample, sample: Sample) -> tuple[Floats, Floats]:
    """Count values by decile of the reference, one at a time."""
    ranked = sorted(reference.values)
    edges = [ranked[-(-k * len(ranked) // COARSE) - 1] for k in range(1, COARSE)]
    counts = np.zeros((2, COARSE))
    for row, values in enumerate((reference.values, sample.values)):
        for value in values:
            counts[row, sum(value > edge for edge in edges)] += 1
    return counts[0], counts[1]


def test_distances_are_those_of_their_definitions() -> None:
    rng = np.random.default_rng(0)
    reference, sample = beta(rng, 900), Sample.independent(rng.beta(3.3, 2, 400))
    found = distance(reference, sample)
    q, p = (counts + ABSENT for counts in deciles(reference, sample))
    q, p = q / q.sum(), p / p.sum()
    assert found.psi == pytest.approx(sum((p - q) * np.log(p / q)), rel=1e-12)
    assert found.js == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9)
    exact = stats.ks_2samp(sample.values, reference.values).statistic
    # Computed only at percentiles of the reference, the distance is too small by at most one percentile.
    assert exact - 1 / 100 - 1 / 900 <= found.ks <= exact
    assert (found.reference, found.samples) == (900, 400)


def test_thresholds_of_independent_values_are_the_chi_squares() -> None:
    rng = np.random.default_rng(1)
    found = distance(beta(rng, 5000), beta(rng, 2000))
    expected = (1 / 5000 + 1 / 2000) * stats.chi2.isf(CHANCE, COARSE - 1)
    assert found.psi_threshold == pytest.approx(expected, rel=0.01)  # shares are those found, not a tenth each
    assert found.js_threshold == pytest.approx(expected / 8, rel=0.01)
    # The variance of the two shares below an edge is that of pooled values, up to n / (n - 1) and how far they differ.
    assert found.ks_threshold == pytest.approx(stats.kstwobign.isf(CHANCE) * np.sqrt(1 / 5000 + 1 / 2000), rel=0.02)


@pytest.mark.parametrize(
    ("draw", "reference", "count", "most"),
    [
        # Of 2,000 windows 2 are expected beyond a threshold; more than 8 come once in 4,000 seeds.
        pytest.param(beta, 1800, 100, 8, id="small window"),
        pytest.param(beta, 1800, 1000, 8, id="window"),
        pytest.param(beta, 500, 2000, 8, id="small reference"),
        # From 50 texts the covariance is an estimate and its chi-square an approximation: about 5 in 1,000.
        pytest.param(texts, 20_000, 2000, 20, id="tokens of 50 texts"),
    ],
)
def test_without_drift_thresholds_are_hardly_ever_exceeded(draw: Draw, reference: int, count: int, most: int) -> None:
    rng = np.random.default_rng(2)
    beyond = np.zeros(3, int)
    naive = moderate = 0
    for _ in range(20):
        frozen = draw(rng, reference)
        scale = Scale.of(frozen)
        sums = scale.sums(frozen)
        for _ in range(100):
            found = scale.distance(sums, scale.sums(draw(rng, count)))
            assert found is not None
            beyond += [
                found.psi > found.psi_threshold,
                found.js > found.js_threshold,
                found.ks > found.ks_threshold,
            ]
            moderate += found.psi > MODERATE
            naive += found.psi > (1 / reference + 1 / count) * stats.chi2.isf(CHANCE, COARSE - 1)
    assert (beyond <= most).all(), beyond
    # The rule of thumb alone: of chi-square variables with 9 degrees of freedom 39 % exceed 0.1 / (1/1800 + 1/100).
    assert count > 100 or 0.3 < moderate / 2000 < 0.5
    assert draw is beta or naive > 200  # what taking tokens for independent would call drift


def test_drift_is_found_where_there_is_some() -> None:
    rng = np.random.default_rng(3)
    reference = beta(rng, 1800)
    assert distance(reference, Sample.independent(rng.beta(3, 3, 500))).drifted
    assert not distance(reference, beta(rng, 500)).drifted
    trifle = distance(beta(rng, 500_000), Sample.independent(rng.beta(3, 2.05, 500_000)))
    assert trifle.psi > trifle.psi_threshold
    assert not trifle.drifted


def test_sums_add_up() -> None:
    rng = np.random.default_rng(4)
    reference = texts(rng, 4000)
    whole = texts(rng, 2000)
    scale = Scale.of(reference)
    halves = [whole.clusters < 25, whole.clusters >= 25]
    parts = [Sample(whole.values[half], whole.clusters[half] - whole.clusters[half].min()) for half in halves]
    np.testing.assert_array_equal(scale.sums(parts[0]) + scale.sums(parts[1]), scale.sums(whole))


@pytest.mark.parametrize(
    ("values", "others"),
    [
        pytest.param([0.0] * 100, [0.0] * 50 + [0.01] * 50, id="a model beside itself, then another"),
        pytest.param([0.2] * 50 + [1.0] * 50, [0.2] * 50 + [0.5] * 50, id="certain of half"),
        pytest.param(np.linspace(0, 1, 100), np.linspace(5, 6, 100), id="outside of all that was"),
    ],
)
def test_ties_and_open_ends(values: list[float], others: list[float]) -> None:
    reference = Sample.independent(values)
    same, other = distance(reference, reference), distance(reference, Sample.independent(others))
    assert (same.psi, same.js, same.ks) == (0, 0, 0)
    assert not same.drifted
    assert other.drifted
    assert np.isfinite([other.psi, other.psi_threshold, other.js, other.ks, other.ks_threshold]).all()


def test_too_few_tell_nothing() -> None:
    rng = np.random.default_rng(5)
    scale = Scale.of(beta(rng, 500))
    sums = scale.sums(beta(rng, 500))
    assert scale.distance(sums, scale.sums(beta(rng, FEWEST - 1))) is None
    assert scale.distance(sums, scale.sums(beta(rng, FEWEST))) is not None
    assert scale.distance(sums, scale.sums(beta(rng, 0))) is None
    with pytest.raises(ValueError, match="the reference has no values"):
        Scale.of(beta(rng, 0))


def test_samples_of_a_run(tmp_path: Path) -> None:
    corpora = [tokens("one", 30, 20, 6), tokens("two", 40, 10, 7)]
    rows = [*items("boolq", 50, 1, choices=2), *items("piqa", 60, 2)]
    rows += [window("one", i) for i in range(30)] + [window("two", i) for i in range(40)]

    run = read_run(write(tmp_path / "run", rows, pa.concat_tables(corpora)))
    found = run_samples(run)
    choices = read_choices(run)
    np.testing.assert_array_equal(found["item", "base_confidence"].values, choices.base.confidence)
    np.testing.assert_array_equal(
        found["item", "confidence_delta"].values, choices.quantized.confidence - choices.base.confidence
    )
    kl = found["token", "kl"]
    np.testing.assert_array_equal(kl.values, np.concatenate([table["kl"].to_numpy() for table in corpora]))
    # Windows of the same number in two corpora are two.
    assert np.bincount(kl.clusters).tolist() == [20] * 30 + [10] * 40
    reference = Reference.of(found)
    distances = reference.distances(reference.sums(found))
    # The made-up items have no tokens and so no KL.
    assert set(distances) == set(found) - {("item", "kl")}
    assert all(each.psi == 0 for each in distances.values())
    assert reference.distances(reference.sums({})) == {}


def test_a_run_without_anything_to_compare(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no items with choices and no corpus"):
        read_reference(write(tmp_path / "run", [window("text", 0)]))


def drift(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "eval", "drift", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_command(tmp_path: Path) -> None:
    reference = write(tmp_path / "reference", items("piqa", 500, 1))
    same = write(tmp_path / "same", items("piqa", 300, 2))
    worse = write(tmp_path / "worse", items("piqa", 300, 3, noise=4))
    few = write(tmp_path / "few", items("piqa", FEWEST - 1, 4))

    code, text = drift(reference, same)
    assert code == 0, text
    assert "confidence, quantized minus base" in text
    code, text = drift(reference, worse, "--json")
    assert code == 1
    verdict = json.loads(text)
    assert verdict["outcome"] == "fail"
    delta = next(each for each in verdict["distances"] if each["quantity"] == "confidence_delta")
    expected = read_reference(reference).reference
    found = expected.distances(expected.sums(run_samples(read_run(worse))))["item", "confidence_delta"]
    assert delta["psi"] == found.psi > delta["psi_threshold"]
    assert drift(reference, few)[0] == 2
    code, text = drift(reference, tmp_path / "missing")
    assert (code, text.count("\n")) == (64, 1)
    assert "missing" in text
