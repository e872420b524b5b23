"""Tokens are drawn from the distribution that they should be drawn from, and again the same for the same seed."""

import pytest
import torch
from scipy import stats  # type: ignore[import-untyped]

from server.engine.twin.sampling import Draw, drawn

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
DRAWS = 20_000


def many(temperature: float, top_p: float, seed: int = 0) -> torch.Tensor:
    """Return how often each token is drawn at 20,000 places."""
    draws = [Draw(0, position, temperature, top_p, seed) for position in range(DRAWS)]
    return torch.bincount(drawn(LOGITS.expand(DRAWS, -1), draws), minlength=len(LOGITS))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_tokens_have_the_frequencies_of_the_softmax(temperature: float) -> None:
    expected = DRAWS * (LOGITS.double() / temperature).softmax(-1)
    kept = expected >= 5  # what the test's approximation needs
    counts = many(temperature, 1.0)[kept]
    scaled = expected[kept] * counts.sum() / expected[kept].sum()
    assert stats.chisquare(counts.numpy(), scaled.numpy()).pvalue > 0.001


def test_top_p_keeps_the_fewest_tokens_that_together_have_it() -> None:
    p = LOGITS.double().softmax(-1)
    top_p = float(p[:2].sum()) + 0.01  # so the third is needed
    counts = many(1.0, top_p)
    assert counts[3:].sum() == 0
    assert stats.chisquare(counts[:3].numpy(), (DRAWS * p[:3] / p[:3].sum()).numpy()).pvalue > 0.001
    assert many(1.0, float(p[0]) - 0.01)[0] == DRAWS


def test_neighboring_places_and_seeds_are_independent() -> None:
    rows = LOGITS.expand(DRAWS, -1)
    first = drawn(rows, [Draw(0, position, 1.0, 1.0, 7) for position in range(DRAWS)])
    for other in (
        drawn(rows, [Draw(0, position + 1, 1.0, 1.0, 7) for position in range(DRAWS)]),
        drawn(rows, [Draw(0, position, 1.0, 1.0, 8) for position in range(DRAWS)]),
    ):
        table = torch.zeros(4, 4)
        for one, two in zip(first.clamp(max=3).tolist(), other.clamp(max=3).tolist(), strict=True):
            table[one, two] += 1
        assert stats.chi2_contingency(table.numpy()).pvalue > 0.001


def test_a_draw_depends_on_nothing_beside_it() -> None:
    draws = [Draw(0, 5, 1.0, 0.9, 3), Draw(0, 6, 0.0, 1.0, 3), Draw(0, 5, 0.7, 1.0, 9)]
    alone = [int(drawn(LOGITS[None], [draw])) for draw in draws]
    assert drawn(LOGITS.expand(3, -1), draws).tolist() == alone


def test_temperature_zero_takes_the_first_of_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0, 1.0]])
    assert drawn(logits, [Draw(0, 1, 0.0, 1.0, 0)]).tolist() == [1]


def test_a_tiny_temperature_and_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[8e4, 7e4, -8e4]])
    assert drawn(logits, [Draw(0, 1, 1e-6, 0.5, 0)]).tolist() == [0]


def test_two_models_with_one_seed_draw_the_same_token_as_often_as_their_distributions_allow() -> None:
    """Sharing the noise is at least as good as (1 - TV) / (1 + TV), the bound for such a coupling.

    M. Daliri, C. Musco, A. T. Suresh, "Coupling without communication and drafter-invariant speculative decoding",
    2024 (arXiv 2408.07978).
    """
    other = LOGITS + torch.tensor([-0.4, 0.3, 0.0, 0.2, 0.0, 0.0])
    draws = [Draw(0, position, 1.0, 1.0, 1) for position in range(DRAWS)]
    one, two = (drawn(each.expand(DRAWS, -1), draws) for each in (LOGITS, other))
    tv = float((LOGITS.softmax(-1) - other.softmax(-1)).abs().sum()) / 2
    equal = float((one == two).double().mean())
    assert equal >= (1 - tv) / (1 + tv) - 3 * (0.25 / DRAWS) ** 0.5
