"""The statistics against float64 textbook definitions on the same logits: within 1e-6 nats or 0.1 %."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from server.engine.twin.compiled import Compiled
from server.engine.twin.kernels import likeliest
from server.engine.twin.kernels import statistics as plain
from server.engine.twin.rows import STATISTICS, WIDTH
from tests.oracle import from_logits

ABSOLUTE, RELATIVE = 1e-6, 1e-3
POSITIONS = 6
Function = Callable[..., tuple[torch.Tensor, ...]]


@contextmanager
def compiling() -> Iterator[None]:
    """Turn on torch.compile, which tests/conftest.py turns off."""
    with pytest.MonkeyPatch.context() as patch, torch._dynamo.config.patch(disable=False):
        patch.setenv("TORCHDYNAMO_DISABLE", "0")
        yield


@pytest.fixture(scope="module", params=["as it is", "compiled"])
def statistics(request: pytest.FixtureRequest) -> Iterator[Function]:
    """Return the function, and the compiled function that the engine uses."""
    with compiling():
        yield plain if request.param == "as it is" else Compiled(plain)


def of_one(function: Function, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the rows of the only variant, then the normalizers."""
    rows, *normalizers = function(*tensors)
    return rows.squeeze(1), *normalizers


def logits(case: str, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two sets of logits whose distributions are related as the case says."""
    base, noise = torch.randn(2, POSITIONS, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).unbind()
    base = base * 2
    if case == "random":
        return base, noise * 2
    if case == "near-identical":
        return base + 20, base + 20 + noise * 1e-3
    if case == "peaked":
        base[:, 3] += 30
        return base, base + noise * 0.1
    if case == "disjoint":
        quantized = base.clone()
        base[:, : vocabulary // 2] -= 200
        quantized[:, vocabulary // 2 :] -= 200
        return base, quantized
    raise ValueError(case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocabulary", [1_000, 32_000, 150_000])
@pytest.mark.parametrize("case", ["random", "near-identical", "peaked", "disjoint"])
def test_against_float64(statistics: Function, case: str, vocabulary: int, dtype: torch.dtype) -> None:
    base, quantized = (each.to(dtype) for each in logits(case, vocabulary))
    targets = torch.tensor([3, 0, vocabulary - 1, *[int(i) for i in base[3:].argmax(-1)]])
    rows, *_ = of_one(statistics, targets, base, quantized)
    want = from_logits(base, quantized, targets)
    expected = {name: getattr(want, name) for name in STATISTICS if not name.endswith(("confidence", "argmax"))} | {
        f"{model}_confidence": getattr(want, f"{model}_logprobs").max(-1).values.exp()
        for model in ("base", "quantized")
    }
    for name, reference in expected.items():
        error = (rows[:, STATISTICS.index(name)].double() - reference).abs()
        allowed = (reference.abs() * RELATIVE).clamp(min=ABSOLUTE)
        assert (error <= allowed).all(), f"{name}: {error.max():.3g}"
    for model, each in (("base", base), ("quantized", quantized)):
        argmax = rows[:, STATISTICS.index(f"{model}_argmax")].long()
        assert (each.gather(-1, argmax[:, None])[:, 0] == each.max(-1).values).all()


@pytest.mark.parametrize("case", ["random", "peaked", "disjoint"])
def test_model_with_itself_is_exactly_zero(statistics: Function, case: str) -> None:
    base, _ = logits(case, 32_000)
    rows, *_ = of_one(statistics, torch.zeros(POSITIONS, dtype=torch.int64), base, base.clone())
    for name in ("kl", "reverse_kl", "js"):
        assert (rows[:, STATISTICS.index(name)] == 0).all()


def test_divergences_are_finite_and_bounded_where_nothing_overlaps(statistics: Function) -> None:
    base, quantized = torch.zeros(1, 1000), torch.zeros(1, 1000)
    base[0, 1], quantized[0, 2] = 1e4, 1e4
    rows, *_ = of_one(statistics, torch.tensor([1]), base, quantized)
    assert rows.isfinite().all()
    assert rows[0, STATISTICS.index("js")].item() == pytest.approx(0.6931472, rel=1e-6)
    assert rows[0, STATISTICS.index("kl")].item() == pytest.approx(1e4, rel=1e-6)


def test_a_next_token_that_ties_for_the_first_place_is_the_likeliest(statistics: Function) -> None:
    logits = torch.tensor([[2.0, 5.0, 1.0, 5.0]]).repeat(3, 1).to(torch.bfloat16)
    rows, *_ = of_one(statistics, torch.tensor([3, 1, 0]), logits, logits.clone())
    for name in ("base_argmax", "quantized_argmax"):
        assert rows[:2, STATISTICS.index(name)].tolist() == [3, 1]
        assert rows[2, STATISTICS.index(name)].item() in (1, 3)


def test_likeliest_are_sorted_and_normalised(statistics: Function) -> None:
    base, _ = logits("random", 1_000)
    _, normalizer, _ = statistics(base.argmax(-1), base, base.clone())
    rows = likeliest(base, normalizer, 20)
    values, ids = base.double().log_softmax(-1).topk(20, -1)
    assert (rows[:, :20].long() == ids).all()
    assert (rows[:, 20:].double() - values).abs().max() < 1e-5


def test_columns(statistics: Function) -> None:
    base, quantized = logits("random", 1_000)
    rows, *_ = of_one(statistics, torch.zeros(POSITIONS, dtype=torch.int64), base, quantized)
    assert rows.shape == (POSITIONS, WIDTH)


def test_variants_together_are_each_with_the_base(statistics: Function) -> None:
    base, first = logits("random", 32_000)
    second, third = base + 0.01 * first, base.clone()
    targets = base.argmax(-1)
    rows, *normalizers = statistics(targets, base, first, second, third)
    assert rows.shape == (POSITIONS, 3, WIDTH)
    assert len(normalizers) == 4
    for number, variant in enumerate((first, second, third)):
        alone, *_ = statistics(targets, base, variant)
        # Another program, whose sums may have another order.
        torch.testing.assert_close(rows[:, number], alone[:, 0], rtol=1e-5, atol=1e-6)
    assert (rows[:, 2, STATISTICS.index("kl")] == 0).all()


def test_the_likeliest_tokens_logprob_is_the_same_to_the_bit(statistics: Function) -> None:
    base, quantized = (each.bfloat16() for each in logits("random", 32_000))
    rows, normalizer, _ = of_one(statistics, base.argmax(-1), base, quantized)
    top = likeliest(base, normalizer, 3)
    assert (top[:, 3] == rows[:, STATISTICS.index("base_logprob")]).all()
    assert (top[:, 0] == rows[:, STATISTICS.index("base_argmax")]).all()


def test_what_cannot_be_compiled_runs_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x

    with compiling():
        function = Compiled(branches)
        assert [function(torch.ones(3)).tolist(), function(torch.zeros(3)).tolist()] == [[2, 2, 2], [0, 0, 0]]
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("qconf: statistics are not compiled, and slower (")


def test_without_a_compiler(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    function = Compiled(torch.square)
    assert [function(torch.full((3,), 2.0)).tolist() for _ in range(2)] == [[4, 4, 4]] * 2
    assert capsys.readouterr().err == (
        "qconf: statistics are not compiled, and slower (there is no C++ compiler no-such-compiler)\n"
    )
