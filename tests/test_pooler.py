"""The pooler around made-up logits: which positions it scores, in how many pieces, and how chunks join."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from vllm import PoolingParams
from vllm.v1.pool.metadata import PoolingMetadata, PoolingStates

from server.engine.twin.kernels import likeliest, statistics
from server.engine.twin.pooler import LOGITS_IN_FLIGHT, POSITIONS, TwinPooler, request_options
from server.engine.twin.rows import WIDTH, Rows

VOCABULARY, HIDDEN, VARIANTS = 50, 4, 2
Logits = Callable[[torch.Tensor], list[torch.Tensor]]


@pytest.fixture
def head() -> Logits:
    """Return fixed projections of each model's part of the hidden states."""
    projections = torch.randn(1 + VARIANTS, HIDDEN, VOCABULARY, generator=torch.Generator().manual_seed(0))
    return lambda hidden: [
        part @ projection for part, projection in zip(hidden.split(HIDDEN, 1), projections, strict=True)
    ]


class Request:
    """A request in several steps of a scheduler, with the hidden states of all its tokens."""

    def __init__(self, length: int, start: int, top: int, seed: int, *, counts: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(VOCABULARY, (length,), generator=generator)
        self.hidden = torch.randn(length, (1 + VARIANTS) * HIDDEN, generator=generator)
        self.params = PoolingParams(task="token_classify", extra_kwargs=request_options(start, top, counts=counts))
        self.state = PoolingStates()
        self.start, self.top = start, top

    def expected(self, head: Logits) -> torch.Tensor:
        """Return all rows of the request at once."""
        base, *variants = head(self.hidden[self.start : -1])
        by_variant = []
        for variant in variants:
            (rows,), norm_base, norm_variant = _alone(self.ids[self.start + 1 :], base, variant)
            parts = [rows]
            if self.top:
                parts += [likeliest(base, norm_base, self.top), likeliest(variant, norm_variant, self.top)]
            by_variant.append(torch.cat(parts, -1))
        return torch.stack(by_variant, 1)


def _alone(targets: torch.Tensor, base: torch.Tensor, variant: torch.Tensor) -> tuple[Any, ...]:
    rows, *normalizers = statistics(targets, base, variant)
    return rows.unbind(1), *normalizers


def step(pooler: TwinPooler, work: list[tuple[Request, int, int]]) -> list[torch.Tensor | None]:
    """Run one step: of each request, the tokens from the first number up to the second, exclusive."""
    requests = [request for request, _, _ in work]
    longest = max(len(request.ids) for request in requests)
    ids = torch.stack([torch.nn.functional.pad(request.ids, (0, longest - len(request.ids))) for request in requests])
    metadata = PoolingMetadata(
        prompt_lens=torch.tensor([len(request.ids) for request in requests]),
        prompt_token_ids=None,
        prompt_token_ids_cpu=ids,
        pooling_params=[request.params for request in requests],
        pooling_states=[request.state for request in requests],
    )
    metadata.build_pooling_cursor(
        np.array([last - first for _, first, last in work]),
        torch.tensor([last for _, _, last in work]),
        torch.device("cpu"),
    )
    return pooler.forward(torch.cat([request.hidden[first:last] for request, first, last in work]), metadata)


def test_chunks_of_several_requests_join_to_whole_rows(head: Logits) -> None:
    pooler = TwinPooler(head, statistics, VOCABULARY, VARIANTS)
    long, short, later = Request(30, 4, 3, 1), Request(7, 0, 0, 2), Request(12, 5, 1, 3)
    first = step(pooler, [(long, 0, 10), (short, 0, 7)])
    second = step(pooler, [(long, 10, 29), (later, 0, 3)])
    third = step(pooler, [(long, 29, 30), (later, 3, 12)])
    assert [first[0], second[0], second[1]] == [None, None, None]
    for got, request in ((third[0], long), (first[1], short), (third[1], later)):
        assert got is not None
        torch.testing.assert_close(got, request.expected(head))


def test_expected_counts_are_sums_of_probabilities_over_all_steps(
    head: Logits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces of 3 positions and chunks of 5, beside requests that ask for none; against float64.

    Rounding: each of 200 probabilities below 1 is exact to 2e-7 or so, and each sum of them to 200 * 6e-8 of itself.
    """
    monkeypatch.setattr("server.engine.twin.kernels.SUMMED_AT_ONCE", 3)
    pooler = TwinPooler(head, statistics, VOCABULARY, VARIANTS)
    pooler.chunk = 5
    long, without, short = Request(211, 10, 3, 1, counts=True), Request(9, 0, 1, 2), Request(8, 1, 0, 3, counts=True)
    (nothing,) = step(pooler, [(long, 0, 4)])
    (also_nothing, rows, of_short) = step(pooler, [(long, 4, 100), (without, 0, 9), (short, 0, 8)])
    (of_long,) = step(pooler, [(long, 100, 211)])
    assert nothing is also_nothing is None
    assert rows is not None
    torch.testing.assert_close(rows, without.expected(head))
    for got, request in ((of_long, long), (of_short, short)):
        assert got is not None
        base, *variants = (each.double().softmax(-1).sum(0) for each in head(request.hidden[request.start : -1]))
        positions = len(request.ids) - 1 - request.start
        for variant, expected in enumerate(variants):
            taken = Rows(got[:, variant].numpy()).taken_apart(VOCABULARY)
            torch.testing.assert_close(torch.from_numpy(taken.values), request.expected(head)[:, variant])
            assert taken.counts is not None
            counts = torch.from_numpy(taken.counts)
            torch.testing.assert_close(counts.double(), torch.stack([base, expected]), rtol=1.2e-5, atol=2e-7)
            torch.testing.assert_close(counts.sum(1), torch.full((2,), float(positions)), rtol=1.2e-5, atol=0)
        assert not request.state.hidden_states_cache


def test_a_model_compared_with_itself_has_the_same_expected_counts() -> None:
    logits = torch.randn(40, VOCABULARY, generator=torch.Generator().manual_seed(0))
    pooler = TwinPooler(lambda hidden: [logits[: len(hidden)]] * 2, statistics, VOCABULARY, variants=1)
    (got,) = step(pooler, [(Request(30, 0, 0, 7, counts=True), 0, 30)])
    assert got is not None
    counts = Rows(got[:, 0].numpy()).taken_apart(VOCABULARY).counts
    assert counts is not None
    assert (counts[0] == counts[1]).all()


def test_tokens_from_the_prefix_cache_have_no_rows(head: Logits) -> None:
    request = Request(20, 3, 0, 4)
    (rows,) = step(TwinPooler(head, statistics, VOCABULARY, VARIANTS), [(request, 16, 20)])
    assert rows is not None
    torch.testing.assert_close(rows, request.expected(head)[-3:])


def test_a_single_token_has_nothing_to_score(head: Logits) -> None:
    (rows,) = step(TwinPooler(head, statistics, VOCABULARY, VARIANTS), [(Request(1, 0, 0, 5), 0, 1)])
    assert rows is not None
    assert rows.shape == (0, VARIANTS, WIDTH)


@pytest.mark.parametrize("vocabulary", [1_000, 32_000, 150_000, 10**6])
def test_logits_are_never_held_for_more_positions_than_the_bound(vocabulary: int) -> None:
    asked: list[int] = []

    def head(hidden: torch.Tensor) -> list[torch.Tensor]:
        asked.append(len(hidden))
        return [torch.zeros(len(hidden), 10)] * 2

    pooler = TwinPooler(head, statistics, vocabulary, variants=1)
    length = 2000
    request = Request(length, 0, 0, 6)
    request.ids %= 10
    step(pooler, [(request, 0, length)])
    assert sum(asked) == length - 1
    assert max(asked) <= POSITIONS[1]
    assert max(asked) * vocabulary <= max(LOGITS_IN_FLIGHT, POSITIONS[0] * vocabulary)


def test_warm_up_requests_of_vllm(head: Logits) -> None:
    """They carry no options, and the last one has fewer token ids than tokens."""
    lengths = np.array([3, 3, 4])
    metadata = PoolingMetadata(
        prompt_lens=torch.from_numpy(lengths),
        prompt_token_ids=None,
        prompt_token_ids_cpu=torch.zeros((3, 3), dtype=torch.int32),
        pooling_params=[PoolingParams(task="token_classify")] * 3,
        pooling_states=[PoolingStates() for _ in lengths],
    )
    metadata.build_pooling_cursor(lengths, torch.from_numpy(lengths), torch.device("cpu"))
    outputs = TwinPooler(head, statistics, VOCABULARY, VARIANTS).forward(
        torch.randn(10, (1 + VARIANTS) * HIDDEN), metadata
    )
    assert all(rows is not None and rows.shape == (2, VARIANTS, WIDTH) for rows in outputs)
