"""Tests that may be looked at after every item: against loops over the formulas, and by how often they are wrong."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats
from qconf.statistics.sequential import FIRST, LEVEL, STAKES, Above, Asymptotic, Betting, Limits

REPLAYS = 400


def most_wrong(level: float, replays: int = REPLAYS) -> int:
    """Return how many wrong verdicts in that many replays a test at the level exceeds once in a thousand times."""
    return int(stats.binom.ppf(0.999, replays, level))


def capital(values: Floats, size: int, limit: float, low: float, stake: float) -> list[float]:
    """Return a gambler's capital after each item, straight from the formula."""
    found, has, total = [], 1.0, 0.0
    for count, value in enumerate(values):
        expected = (size * limit - total) / (size - count)
        has *= 1 + stake * ((value - low) / (expected - low) - 1)
        total += value
        found.append(has)
    return found


def test_the_capital_is_that_of_confseq() -> None:
    """Numbers of confseq 0.0.11, ``betting_mart(x, m, N=20, theta=1, trunc_scale=stake)`` with bets that are cut."""
    values = np.array([0.5, 0.5, 1, 0.5, 0.5, 0])
    expected = {
        (0.3, 0.2): (1.13333333, 1.29818182, 1.97323636, 2.41721455, 3.03878400, 2.43102720),
        (0.45, 0.96): (1.10666667, 1.23165490, 2.70964078, 3.26705260, 3.99083041, 0.15963322),
    }
    for (limit, stake), numbers in expected.items():
        assert capital(values, 20, limit, 0.0, stake) == pytest.approx(numbers, rel=1e-7)


@pytest.mark.parametrize("batch", [1, 7, 200])
@pytest.mark.parametrize("limit", [-0.3, -0.1, 0.0])
def test_it_is_proven_when_the_mean_of_all_capitals_reaches_40(batch: int, limit: float) -> None:
    values = np.random.default_rng(3).uniform(-1, 1, 200) ** 3
    of_all = np.mean([capital(values, 300, limit, -1.0, stake) for stake in STAKES], axis=0)
    reached = np.nonzero(of_all >= 40)[0]
    test = Above(300, limit, -1.0, strictly=True)
    for begin in range(0, 200, batch):
        test.update(values[begin : begin + batch])
    assert test.proven_at == (reached[0] + 1 if len(reached) else None)
    assert (test.proven_at is None) == (limit == 0.0)


def rare(size: int, count: int) -> Floats:
    return np.repeat([1.0, 0.0], [count, size - count])


POPULATIONS = {
    "two of 300": rare(300, 2),
    "nine of 300": rare(300, 9),
    "half of 20": rare(20, 10),
    "half of 300": rare(300, 150),
    "all but one": rare(100, 99),
    "none": rare(100, 0),
    "uniform": np.linspace(0, 1, 300),
    "skewed": np.linspace(0, 1, 300) ** 8,
    "discordant": np.repeat([0.0, 0.5, 1.0], [7, 285, 8]),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_a_mean_is_hardly_ever_said_to_be_beyond_itself_however_often_one_looks(name: str) -> None:
    values, rng = POPULATIONS[name], np.random.default_rng(0)
    wrong = [0, 0]
    for _ in range(REPLAYS):
        drawn = rng.permutation(values)
        tests = (
            Above(len(values), values.mean(), 0.0, strictly=True),
            Above(len(values), -values.mean(), -1.0, strictly=True),
        )
        for test, each in zip(tests, (drawn, -drawn), strict=True):
            # The last item is not random: only rounding decides which of two equal means is larger.
            test.update(each[:-1])
        wrong = [count + (test.proven_at is not None) for count, test in zip(wrong, tests, strict=True)]
    assert max(wrong) <= most_wrong(LEVEL / 2)


def test_the_sequence_covers_at_all_times_together_and_never_widens() -> None:
    values, rng = POPULATIONS["nine of 300"], np.random.default_rng(1)
    missed = 0
    for _ in range(40):
        drawn = rng.permutation(values)
        sequence, before = Betting(300, 0.0, 1.0), (0.0, 1.0)
        outside = False
        for begin in range(0, 300, 60):
            sequence.update(drawn[begin : begin + 60], drawn[begin : begin + 60])
            low, high = sequence.interval()
            assert before[0] - 1e-9 <= low <= high <= before[1] + 1e-9
            outside |= not low - 1e-9 <= 0.03 <= high + 1e-9
            before = low, high
        assert before == (0.03, 0.03)
        missed += outside
    assert missed <= most_wrong(LEVEL, 40)


@pytest.mark.parametrize("seed", range(5))
def test_a_limit_passes_exactly_where_the_sequence_lies_beyond_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(np.repeat([-1.0, 1.0, 0.0], [20, 25, 455]))[:250]
    plain = Betting(500, -1.0, 1.0)
    plain.update(drawn, drawn)
    low, high = plain.interval()
    for limit in np.linspace(-0.2, 0.2, 41):
        rule = Betting(500, -1.0, 1.0, at_least=limit)
        rule.update(drawn, drawn)
        assert rule.outcome == ("pass" if limit <= low else "fail" if limit > high else None)


@pytest.mark.parametrize("kind", [Betting, Asymptotic])
@pytest.mark.parametrize(("at_least", "at_most"), [(-0.02, None), (None, -0.02), (-0.02, -0.02), (-0.5, 0.5)])
def test_a_mean_on_the_limit_keeps_it_once_all_items_are_known(
    kind: Callable[..., Limits], at_least: float | None, at_most: float | None
) -> None:
    drawn = np.random.default_rng(0).permutation(np.repeat([-1.0, 1.0, 0.0], [45, 9, 1746]))
    limits = kind(1800, -1.0, 1.0, at_least=at_least, at_most=at_most)
    limits.update(drawn, drawn)
    assert (limits.outcome, limits.interval()) == ("pass", (-0.02, -0.02))
    worse = kind(1800, -1.0, 1.0, at_least=-0.0199)
    worse.update(drawn, drawn)
    assert worse.outcome == "fail"


def test_what_no_further_item_can_change_is_settled_at_once() -> None:
    limits = Betting(10, 0.0, 1.0, at_most=0.2)
    for value, outcome in ((1.0, None), (0.0, None), (1.0, None), (1.0, "fail")):
        limits.update(np.array([value]), np.array([value]))
        assert limits.outcome == outcome
    assert limits.settled_at == 4
    assert limits.interval()[0] == pytest.approx(0.3)


def test_a_pass_is_for_good() -> None:
    limits = Betting(400, 0.0, 1.0, at_most=0.05)
    zeros, ones = np.zeros(200), np.ones(200)
    limits.update(zeros, zeros)
    settled_at = limits.settled_at
    assert limits.outcome == "pass"
    limits.update(ones, ones)
    assert (limits.outcome, limits.settled_at) == ("pass", settled_at)


def test_items_that_are_not_known_count_as_the_worst_for_every_verdict() -> None:
    known, unknown = np.zeros(190), np.repeat([0.0, 1.0], [0, 10])
    for at_most, outcome in ((0.05, "pass"), (0.049, None)):
        limits = Betting(200, 0.0, 1.0, at_most=at_most)
        limits.update(np.zeros(10), unknown)
        limits.update(known[:-1], known[:-1])
        assert limits.outcome is None
        limits.update(known[-1:], known[-1:])
        assert limits.outcome == outcome
        assert limits.interval() == (0.0, 0.05)


def test_items_that_fail_because_of_what_they_are_do_not_make_wrong_verdicts() -> None:
    """Half of the flips get no answer: dropped, they would let a share of 6 % pass for 3 %."""
    rng, values, wrong = np.random.default_rng(2), rare(600, 36), 0
    for _ in range(REPLAYS):
        drawn = rng.permutation(values)
        silent = (drawn == 1.0) & (np.cumsum(drawn) % 2 == 0)
        limits = Betting(600, 0.0, 1.0, at_most=35 / 600)
        limits.update(np.where(silent, 0.0, drawn), np.where(silent, 1.0, drawn))
        wrong += limits.outcome == "pass"
    assert wrong <= most_wrong(LEVEL / 2)


@pytest.mark.parametrize(
    ("lowest", "highest", "message"),
    [
        (0.0, 1.1, r"highest\[0\] is 1.1, expected a number from 0 to 1"),
        (-0.1, 0.5, r"lowest\[0\] is -0.1, expected a number from 0 to 1"),
        (math.nan, 0.5, r"lowest\[0\] is nan"),
        (0.5, 0.4, r"lowest\[0\] is 0.5"),
    ],
)
def test_values_beyond_their_bounds_are_refused(lowest: float, highest: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Betting(10, 0.0, 1.0, at_most=0.5).update(np.array([lowest]), np.array([highest]))


@pytest.mark.parametrize("kind", [Betting, Asymptotic])
def test_more_items_than_there_are_are_refused(kind: Callable[..., Limits]) -> None:
    with pytest.raises(ValueError, match="4 items were added, expected no more than size, 3"):
        kind(3, 0.0, 1.0, at_most=0.5).update(np.full(4, 0.3), np.full(4, 0.3))


@pytest.mark.parametrize("batch", [1, 500])
def test_the_asymptotic_sequence_is_that_of_its_formula(batch: int) -> None:
    drawn, size = np.random.default_rng(5).gamma(9.0, 1.0, 400), 1000
    limits = Asymptotic(size, -math.inf, math.inf)
    for begin in range(0, 400, batch):
        limits.update(drawn[begin : begin + batch], drawn[begin : begin + batch])
    a = sum(x + drawn[:i].sum() / (size - i) for i, x in enumerate(drawn))
    b = sum(size / (size - i) for i in range(400))
    rate = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 250
    bound = math.sqrt((400 * rate + 1) / rate * math.log((400 * rate + 1) / 0.05**2))
    z = bound / math.sqrt(400)
    shift = stats.skew(drawn) * drawn.std() * (1 + 2 * z**2) / 6
    assert shift > 0
    assert limits.interval() == pytest.approx(
        ((a - bound * drawn.std()) / b, (a + bound * drawn.std() + shift) / b), rel=1e-9
    )


@pytest.mark.parametrize("shape", [0.5, 2.0])
def test_the_asymptotic_sequence_is_hardly_ever_wrong(shape: float) -> None:
    """Gamma with a skewness of 2.8 and of 1.4. The guarantee is asymptotic: 4 % are accepted where 2.5 % are meant."""
    rng, wrong = np.random.default_rng(0), [0, 0]
    for _ in range(REPLAYS):
        values = rng.gamma(shape, 1.0, 1000)
        for number, limit in enumerate(({"at_most": values.mean() - 1e-9}, {"at_least": values.mean() + 1e-9})):
            limits = Asymptotic(1000, 0.0, math.inf, **limit)
            limits.update(values, values)
            wrong[number] += limits.outcome == "pass"
    assert max(wrong) <= most_wrong(0.04)


def test_the_asymptotic_sequence_waits_for_enough_items() -> None:
    rng = np.random.default_rng(0)
    few = Asymptotic(10_000, 0.0, math.inf, at_most=100.0)
    values = rng.uniform(0, 1, FIRST)
    few.update(values[:-1], values[:-1])
    low, high = few.interval()
    assert low == pytest.approx(values[:-1].sum() / 10_000)
    assert high == math.inf
    few.update(values[-1:], values[-1:])
    assert few.interval()[1] < 1.0
    for unlike in (rng.lognormal(0, 2.5, 5000), np.full(5000, 0.3)):
        limits = Asymptotic(10_000, 0.0, math.inf, at_most=100.0)
        limits.update(unlike, unlike)
        assert limits.outcome is None


def test_an_item_without_bounds_that_is_not_known_leaves_nothing_to_be_said() -> None:
    limits = Asymptotic(10, 0.0, math.inf, at_most=1.0)
    limits.update(np.array([0.1, 0.0]), np.array([0.1, math.inf]))
    assert limits.lost
    limits.update(np.full(8, 0.1), np.full(8, 0.1))
    assert (limits.outcome, limits.interval()) == (None, (0.0, math.inf))
