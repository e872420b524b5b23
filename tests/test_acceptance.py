"""The acceptance test for GPUs, without an engine: what counts as wrong, what is kept, and the exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.cases import Case, NotAvailable, Record, Report, Wrong, exit_code, reason, run_cases
from benchmarks.correctness import MARLIN, numbers, settings, used
from benchmarks.random_pair import SIZES, RandomPair, dequantize, make_pair
from benchmarks.references import Columns, judged, load, references
from qconf.wire import ModelTokens, TokenComparison
from tests.oracle import tolerances
from tests.test_random_pair import weights

FACTS = {"date": "2030-01-01T00:00:00+00:00", "device": "none"}
POSITIONS = 400
NAME = "model.layers.2.mlp.down_proj"


@pytest.fixture
def exact() -> Columns:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(POSITIONS, generator=generator).double().numpy()
        for name in tolerances(torch.ones(1), "float16")
    }


def noise(scale: float) -> Columns:
    generator = np.random.default_rng(0)
    return {name: np.abs(scale * generator.standard_normal(POSITIONS)) for name in tolerances(torch.ones(1), "float16")}


def problems(got: Columns, want: Columns, peer: Columns) -> list[str]:
    allowed = {name: column.numpy() for name, column in tolerances(torch.from_numpy(want["kl"]), "float16").items()}
    return judged(got, want, allowed, peer)[1]


def test_within_tolerance_nothing_else_counts(exact: Columns) -> None:
    got = {name: column + 0.0001 for name, column in exact.items()}
    assert problems(got, exact, noise(0)) == []


def test_beyond_tolerance_as_wrong_as_transformers_is_right(exact: Columns) -> None:
    errors = noise(0.1)
    got = {name: column + errors[name][::-1] for name, column in exact.items()}
    assert problems(got, exact, errors) == []


@pytest.mark.parametrize("name", ["base_logprob", "quantized_entropy", "reverse_kl"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda column: np.roll(column, 1), "mean error"),
        (lambda column: np.where(np.arange(POSITIONS) == 7, column + 3, column), "max error"),
        (lambda column: np.where(np.arange(POSITIONS) == 7, np.nan, column), "not finite at 1 positions"),
    ],
    ids=["shifted", "one wrong row", "not a number"],
)
def test_a_wrong_column_is_told(exact: Columns, name: str, change: Callable[[Any], Any], told: str) -> None:
    got = exact | {name: change(exact[name])}
    found = problems(got, exact, noise(0.02))
    assert all(problem.startswith(name) for problem in found)
    assert told in found[0]


def test_missing_entries_are_not_numbers() -> None:
    model = ModelTokens(logprobs=[None, -1.0], entropy=[None, 2.0], confidence=[None, 0.5], argmax=[None, 3])
    scores = TokenComparison(
        tokens=["a", "b"],
        token_ids=[1, 2],
        base=model,
        quantized=model,
        kl=[None, 0.1],
        reverse_kl=[0.2],
        js=[],
        total_variation=[],
        agree=[],
    )
    columns = numbers(scores, 2)
    assert columns["base_logprob"].tolist() == pytest.approx([np.nan, -1], nan_ok=True)
    assert columns["reverse_kl"].tolist() == pytest.approx([np.nan, 0.2], nan_ok=True)
    assert np.isnan(columns["js"]).all()


def test_reference_has_the_weights_of_both_halves(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, SIZES["tiny"], 1024)
    tensors = weights(pair.quantized)
    for half, expected in ((pair.base, weights(pair.base)), (pair.quantized, {})):
        weight = load(pair.base, half, torch.float32).get_parameter(f"{NAME}.weight")
        assert torch.equal(weight, expected[f"{NAME}.weight"].float() if expected else dequantize(tensors, NAME))


def test_a_reference_stands_its_own_test(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, SIZES["tiny"], 1024)
    found = references(RandomPair(pair.base, pair.quantized), 1024)
    want, allowed, peer = found[2].last(50, "bfloat16")
    assert {len(column) for column in want.values()} == {50}
    assert judged(want, want, allowed, peer)[1] == []
    swapped = want | {"base_logprob": want["quantized_logprob"]}
    assert judged(swapped, want, allowed, peer)[1] != []
    assert all(0 < column.mean() < 0.03 for column in peer.values())


def cases() -> list[Case]:
    def passes(record: Record) -> str:
        record["figure"] = 0.25
        return "well"

    def fails(record: Record) -> str:
        record["figure"] = 0.75
        raise Wrong("kl is off")

    def lacks(record: Record) -> str:
        raise NotAvailable("no such kernel")

    def breaks(record: Record) -> str:
        raise KeyError("gone")

    return [Case("a", fails), Case("b", passes), Case("c", lacks), Case("d", breaks)]


def test_every_case_is_run_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results" / "none.json"
    assert run_cases("part", cases(), Report(path, FACTS), 1) == ["failed", "passed", "not available", "failed"]
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["runs"] == {FACTS["date"]: FACTS}
    told = {name: (record["outcome"], record["says"], record.get("figure")) for name, record in found["cases"].items()}
    assert told == {
        "part: a": ("failed", "kl is off", 0.75),
        "part: b": ("passed", "well", 0.25),
        "part: c": ("not available", "no such kernel", None),
        "part: d": ("failed", "KeyError: 'gone'", None),
    }
    assert [line.split("part: ")[1] for line in capsys.readouterr().out.splitlines()][1] == "b: well"


def test_a_case_that_is_run_again_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    run_cases("part", cases()[:2], Report(path, FACTS), 1)
    later = FACTS | {"date": "2030-01-02T00:00:00+00:00"}
    run_cases("part", [Case("a", lambda record: "well")], Report(path, later), 1)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {name: (case["run"], case["outcome"]) for name, case in found["cases"].items()} == {
        "part: a": (later["date"], "passed"),
        "part: b": (FACTS["date"], "passed"),
    }
    assert list(found["runs"]) == [FACTS["date"], later["date"]]
    run_cases("part", cases()[1:2], Report(path, later), 1)
    assert list(json.loads(path.read_text(encoding="utf-8"))["runs"]) == [later["date"]]


def test_no_case_is_begun_once_the_time_is_over(tmp_path: Path) -> None:
    assert run_cases("part", cases(), Report(tmp_path / "none.json", FACTS), 0) == ["not run"] * 4


def test_exit_code() -> None:
    assert exit_code(["passed", "not available", "not run"]) == 0
    assert exit_code(["passed", "failed", "passed"]) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("exit code 2:\nTraceback ...\nqconf-server: error: no room\nleaked semaphores", "no room"),
        (
            "(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:1510] torch.OutOfMemoryError: CUDA out of memory\n"
            "qconf-server: error: vLLM cannot load the pair: failed. See root cause above. Failed: {}",
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        ("an engine failed:\nTraceback ...\nValueError: of this kind\nleaked semaphores", "ValueError: of this kind"),
        ("first\nlast", "last"),
    ],
)
def test_reason_is_one_line(text: str, line: str) -> None:
    assert reason(Wrong(text)) == line


def test_first_eight_settings_meet_in_pairs() -> None:
    everything = settings("1b")
    assert len(set(everything)) == 32
    codes = [(s.pair, s.dtype, s.runner, s.kernel, s.eager) for s in everything[:8]]
    assert codes[0] == ("1b", "float16", "V2", None, False)
    for i in range(5):
        for j in range(i):
            assert len({(code[i], code[j]) for code in codes}) == 4


def test_what_the_log_says_of_runner_and_kernel() -> None:
    log = (
        "(EngineCore pid=1) INFO [gpu_worker.py:518] Using V2 Model Runner\n"
        f"(EngineCore pid=1) INFO [auto_gptq.py:352] Using {MARLIN} for AutoGPTQLinearMethod\n"
        "qconf: statistics are not compiled, and slower (no compiler)\n"
    )
    found = used(log)
    assert (found["runner"], found["kernels"]) == ("V2", [MARLIN])
    assert found["warnings"] == ["qconf: statistics are not compiled, and slower (no compiler)"]
    assert (used("")["runner"], used("")["kernels"]) == ("V1", [])
