"""The null of figures by base confidence: the noise it makes, what it expects, that its tests keep their level."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.null import NOISES, TESTS, Noise, rejects, simulated
from eval.analysis.items import BUCKETS, analyse
from eval.analysis.null import MOST, Null, constant_noise, item_changes, permuted, spreads
from eval.report.sentences import log_odds_sentence
from qconf.run.choices import Choices
from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.calibration import bin_of, equal_mass_edges
from qconf.statistics.intervals import Interval

gauss, where_unsure, where_sure = (NOISES[name] for name in ("constant", "larger where unsure", "larger where sure"))


def buckets_of(choices: Choices) -> Ints:
    return np.asarray(bin_of(choices.base.confidence, equal_mass_edges(choices.base.confidence, BUCKETS)))


def null_of(choices: Choices, rng: np.random.Generator, simulations: int) -> Null:
    return constant_noise(choices, buckets_of(choices), rng, simulations)


def rejections(noise: Noise, items: int, repeats: int, step: float | None = None) -> dict[str, int]:
    """Return the share of runs in which each test has p <= 5 %; with 39 permutations p can be exactly 5 %."""
    rng = np.random.default_rng(1)
    found = [rejects(simulated(rng, items, noise, step=step), rng, 39) for _ in range(repeats)]
    return dict(zip(TESTS, np.sum(found, axis=0).tolist(), strict=True))


@pytest.mark.parametrize(
    ("noise", "step"),
    [("constant", None), ("constant, heavy tails", None), ("constant in each task", None), ("constant", 0.5)],
)
def test_noise_that_knows_nothing_of_confidence_is_rejected_in_five_percent(noise: str, step: float | None) -> None:
    found = rejections(NOISES[noise], 100, 150, step)
    # Of 150 runs, more are rejected once in 1,000 times.
    assert max(found.values()) <= stats.binom.isf(0.001, 150, 0.05)
    # The direct test has no ties, so its level is 5 % and not less.
    assert found["log_odds_trend"] >= stats.binom.ppf(0.001, 150, 0.05)


@pytest.mark.parametrize(("noise", "sign"), [(where_unsure, -1), (where_sure, 1)])
def test_noise_that_knows_confidence_is_found(noise: Noise, sign: int) -> None:
    rng = np.random.default_rng(3)
    found = null_of(simulated(rng, 600, noise), rng, 199)
    for test in (found.log_odds_trend, found.kl_trend):
        assert test.p_value <= 0.01
        assert np.sign(test.observed - test.expected.expected) == sign
    power = rejections(noise, 300, 40)
    assert min(power["log_odds_trend"], power["kl_trend"]) > 24


def test_flips_of_two_choices_are_those_of_the_normal_distribution() -> None:
    """Of log-odds m and noise with standard deviation s, a share of Phi(-m / s) flips; KL is Gauss-Hermite's."""
    rng = np.random.default_rng(0)
    choices = simulated(rng, 4_000, gauss, width=2)
    found, bucket = null_of(choices, rng, 100), buckets_of(choices)
    logits, size = choices.base_logprobs[:, 0] - choices.base_logprobs[:, 1], 0.4 * np.sqrt(2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    share = 1 / (1 + np.exp(-logits))
    other = logits[:, None] + size * nodes
    divergence = share[:, None] * (np.log(share)[:, None] + np.logaddexp(0, -other)) + (1 - share[:, None]) * (
        np.log1p(-share)[:, None] + np.logaddexp(0, other)
    )
    kl, flips = divergence @ weights / weights.sum(), stats.norm.cdf(-np.abs(logits) / size)
    for number, bands in enumerate(found.buckets):
        members = bucket == number
        # The squared changes of 4,000 items are known to 2.2 %, and how many reach a bucket's margin to its root.
        assert bands["kl"].expected == pytest.approx(kl[members].mean(), rel=0.07)
        share_flipped = flips[members].mean()
        assert bands["flips"].expected == pytest.approx(share_flipped, abs=3 * np.sqrt(share_flipped / 4_000) + 1e-4)
        assert bands["log_odds_spread"].expected == pytest.approx(size, rel=0.04)


def test_statistics_are_those_of_a_loop_over_the_items() -> None:
    rng = np.random.default_rng(5)
    choices = simulated(rng, 60, NOISES["constant, heavy tails"])
    changes, bucket = item_changes(choices), buckets_of(choices)
    for item in range(60):
        base, other = choices.base_logprobs[item], choices.quantized_logprobs[item]
        second, first = np.argsort(base)[-2:]
        assert changes.log_odds[item] == pytest.approx((other[first] - other[second]) - (base[first] - base[second]))
        assert changes.flips[item] == (base.argmax() != other.argmax())
        p, q = (np.exp(each) / np.exp(each).sum() for each in (base, other))
        label = choices.labels[item]
        assert changes.confidence_shift[item] == pytest.approx(abs(q[label] - p[label]))
        assert changes.kl[item] == pytest.approx((p * np.log(p / q)).sum())
    expected = [np.std(changes.log_odds[bucket == number]) for number in range(BUCKETS)]
    assert spreads(changes.log_odds, bucket) == pytest.approx(expected)
    found = null_of(choices, rng, 9)
    deviations = np.abs(
        [each - np.median(changes.log_odds[bucket == at]) for each, at in zip(changes.log_odds, bucket, strict=True)]
    )
    confidence = choices.base.confidence
    assert found.log_odds_trend.observed == pytest.approx(stats.spearmanr(confidence, deviations).statistic)
    assert found.kl_trend.observed == pytest.approx(stats.spearmanr(confidence, changes.kl).statistic)


def test_the_p_value_is_scipys() -> None:
    """One task, two choices and one label: the changes of all items are permuted."""
    rng = np.random.default_rng(6)
    every = simulated(rng, 80, where_unsure, width=2)
    keep = (every.labels == 0) & (every.task == 0)
    choices = every.where(keep)
    bucket, confidence = np.zeros(len(choices), np.int64), choices.base.confidence
    sign = np.where(choices.base.choice == 0, 1.0, -1.0)
    change = choices.quantized_logprobs - choices.base_logprobs

    def statistic(moved: Floats) -> float:
        log_odds = sign * moved
        return float(stats.spearmanr(confidence, np.abs(log_odds - np.median(log_odds))).statistic)

    expected = stats.permutation_test(
        (change[:, 0] - change[:, 1],), statistic, permutation_type="pairings", n_resamples=1_999, rng=rng
    )
    found = constant_noise(choices, bucket, rng, 1_999).log_odds_trend
    assert found.observed == pytest.approx(expected.statistic)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.04)


def test_changes_stay_in_their_task_size_and_label() -> None:
    rng = np.random.default_rng(7)
    wide, narrow = simulated(rng, 40, gauss), simulated(rng, 40, gauss, width=2)
    padding = np.full((40, 2), -np.inf)
    choices = Choices(
        tasks=wide.tasks,
        task=np.concatenate([wide.task, narrow.task]),
        doc_id=np.arange(80),
        labels=np.concatenate([wide.labels, narrow.labels]),
        sizes=np.concatenate([wide.sizes, narrow.sizes]),
        base_logprobs=np.concatenate([wide.base_logprobs, np.hstack([narrow.base_logprobs, padding])]),
        quantized_logprobs=np.concatenate([wide.quantized_logprobs, np.hstack([narrow.quantized_logprobs, padding])]),
        chars=np.full((80, 4), 8),
    )
    strata = list(zip(choices.task, choices.sizes, choices.labels, strict=True))
    (logprobs,) = permuted(choices, rng, 1)
    real = choices.quantized_logprobs[:, :2] - choices.base_logprobs[:, :2]
    given = logprobs[:, :2] - choices.base_logprobs[:, :2]
    source = [int(np.abs(real - each).sum(axis=1).argmin()) for each in given]
    assert given == pytest.approx(real[source])
    assert sorted(source) == list(range(80))
    assert [strata[each] for each in source] == strata
    assert source != list(range(80))
    assert np.isneginf(logprobs[40:, 2:]).all()
    assert np.isfinite(logprobs[:40]).all()


def test_items_without_an_order_have_a_test_all_the_same() -> None:
    """A pair without any change, and items of a single choice."""
    rng = np.random.default_rng(8)
    same = simulated(rng, 50, lambda rng, confidence, task, shape: np.zeros(shape))
    found = null_of(same, rng, 19)
    assert [getattr(found, name).p_value for name in TESTS] == [1.0] * 4
    assert (found.flips.low, found.flips.high) == (0.0, 0.0)
    assert log_odds_sentence(analyse(same, rng, 100)) == "No change of log-odds varies among items."
    single = simulated(rng, 20, gauss, width=1)
    assert (item_changes(single).log_odds == 0).all()


def test_of_many_items_a_sample_takes_part() -> None:
    rng = np.random.default_rng(9)
    choices = simulated(rng, MOST + 500, where_unsure)
    found = null_of(choices, rng, 19)
    assert found.items == MOST
    assert found.log_odds_trend.p_value == 0.1
    assert found.log_odds_trend.observed < found.log_odds_trend.expected.low


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (where_unsure, "unsure items change significantly more than sure ones"),
        (where_sure, "unsure items change significantly less than sure ones"),
        (gauss, "is enough to explain which answers change"),
    ],
)
def test_the_sentence_says_what_was_found(noise: Noise, words: str) -> None:
    rng = np.random.default_rng(10)
    found = analyse(simulated(rng, 600, noise), rng, 200)
    assert words in log_odds_sentence(found)
    first = found.buckets[0]
    assert isinstance(found.pair["flips"], Interval)
    assert first.log_odds_spread > 0
    assert found.null.simulations == 200
