"""Parts of server/engine/engine.py that can be tested without an engine."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from server.engine.engine import Failure, QueueTimes, TwinEngine, parse_engine_args
from server.engine.twin.rows import WIDTH, Rows
from server.errors import NotFinite, RequestError

FULL = 0.92
"""vLLM's own share of a GPU's memory."""
STALLED_SECONDS = 120


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.engine.engine.current_platform", SimpleNamespace(is_cpu=lambda: False))


@pytest.mark.parametrize(("models", "gibibytes"), [(2, 1), (6, 3)])
def test_on_a_cpu_the_cache_grows_with_the_models(models: int, gibibytes: int) -> None:
    """Six models with the cache of two would not hold one request of the whole context of a real model."""
    assert parse_engine_args([], models=models).kv_cache_memory_bytes == gibibytes * 2**30
    given = parse_engine_args(["--kv-cache-memory-bytes", "1000000"], models=models)
    assert given.kv_cache_memory_bytes == 1_000_000


@pytest.mark.usefixtures("on_a_gpu")
def test_the_demo_pair_takes_little_of_a_gpu() -> None:
    demo = parse_engine_args([], demo=True)
    assert (demo.gpu_memory_utilization, demo.kv_cache_memory_bytes) == (0.1, 2**28)
    assert parse_engine_args(["--gpu-memory-utilization", "0.5"], demo=True).gpu_memory_utilization == 0.5
    mine = parse_engine_args([])
    assert (mine.gpu_memory_utilization, mine.kv_cache_memory_bytes) == (FULL, None)


AUTO = pytest.mark.parametrize("arguments", [[], ["--dtype", "auto"], ["--dtype=auto"]])


@AUTO
@pytest.mark.usefixtures("on_a_gpu")
def test_the_dtype_on_a_gpu_is_float16(arguments: list[str]) -> None:
    assert parse_engine_args(arguments).dtype == "float16"


@AUTO
@pytest.mark.parametrize("instructions", [True, False])
def test_the_dtype_on_a_cpu_is_the_fastest(
    instructions: bool, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's own choice would be the checkpoint's dtype, which a CPU without instructions for it emulates."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": instructions})
    assert parse_engine_args(arguments).dtype == ("bfloat16" if instructions else "float32")


def test_a_dtype_that_is_named_stays() -> None:
    assert parse_engine_args(["--dtype", "float16"]).dtype == "float16"


@pytest.mark.parametrize("module", ["vllm.exceptions.GenerationError", "vllm.v1.engine.exceptions.EngineGenerateError"])
async def test_a_failed_generation_is_an_error_of_the_request(module: str, tmp_path: Path) -> None:
    """vLLM raises the first up to 0.32 and the second from 0.33 on."""
    path, _, name = module.rpartition(".")
    error = getattr(__import__(path, fromlist=[name]), name)

    class Failing:
        async def encode(self, *_: object, **__: object) -> AsyncIterator[Any]:
            raise error("it broke")
            yield

    config: Any = SimpleNamespace(cache_config=SimpleNamespace(enable_prefix_caching=False, block_size=32))
    llm: Any = Failing()
    info: Any = None
    with pytest.raises(RequestError, match="the engine failed on the request: it broke"):
        await TwinEngine(llm, config, info, QueueTimes(STALLED_SECONDS), Failure(tmp_path / "failure", 0)).score(
            [1, 2, 3]
        )


async def test_an_engine_with_work_and_without_progress_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("server.engine.engine.time", SimpleNamespace(monotonic=lambda: now[0]))
    times = QueueTimes(STALLED_SECONDS)
    now[0] += 10 * STALLED_SECONDS
    assert not times.stalled, "an idle engine makes no progress and is well"
    with times.expected("a"):
        assert not times.stalled
        now[0] += STALLED_SECONDS - 1
        times.record(None, None)
        now[0] += STALLED_SECONDS - 1
        assert not times.stalled
        now[0] += 2
        assert times.stalled
        with times.expected("b"):
            assert times.stalled, "more work is no progress"
    assert times.stalled, "the server ends, and with it the work"


async def test_rows_that_are_not_finite_are_an_error_that_names_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.zeros((4, WIDTH), np.float32)
    values[2, 3] = np.nan

    async def encode(*_: object, **__: object) -> list[Rows]:
        return [Rows(values)]

    config: Any = SimpleNamespace(cache_config=SimpleNamespace(enable_prefix_caching=False, block_size=32))
    nothing: Any = None
    engine = TwinEngine(nothing, config, nothing, QueueTimes(STALLED_SECONDS), Failure(tmp_path / "failure", 0))
    monkeypatch.setattr(engine, "_encode", encode)
    with pytest.raises(NotFinite, match="not finite where token 3 is predicted"):
        await engine.score([1, 2, 3, 4, 5])


async def test_a_sequence_that_runs_twice_counts_both_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated request: the cache has 64 of its 80 tokens, so that rows of scored positions are missing."""
    asked = []

    async def encode(ids: list[int], options: dict[str, int], *, read_cache: bool) -> list[Rows]:
        asked.append(read_cache)
        cached = 64 if read_cache else 0
        rows = np.zeros((len(ids) - 1 - max(options["start"], cached - 1), WIDTH), np.float32)
        return [Rows(rows, len(ids) - cached, cached, queue_seconds=0.5, counts=np.full((2, 7), len(rows)))]

    config: Any = SimpleNamespace(cache_config=SimpleNamespace(enable_prefix_caching=True, block_size=32))
    nothing: Any = None
    engine = TwinEngine(nothing, config, nothing, QueueTimes(STALLED_SECONDS), Failure(tmp_path / "failure", 0))
    monkeypatch.setattr(engine, "_encode", encode)
    (rows,) = await engine.score(list(range(80)), start=40, counts=True)
    assert asked == [True, False]
    assert len(rows.values) == 39
    assert rows.counts is not None
    assert (rows.counts == 39).all(), "only the whole pass has all positions"
    assert (rows.computed_tokens, rows.cached_tokens, rows.queue_seconds) == (16 + 80, 64, 1.0)
    (once,) = await engine.score(list(range(80)), start=70)
    assert (once.computed_tokens, once.cached_tokens, once.queue_seconds) == (16, 64, 0.5)


async def test_a_queue_time_that_is_never_reported_is_not_awaited_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may die between an output and its statistics."""

    class Silent:
        async def encode(self, *_: object, **__: object) -> AsyncIterator[Any]:
            values = torch.zeros(2, 1, WIDTH)
            yield SimpleNamespace(finished=True, num_cached_tokens=0, outputs=SimpleNamespace(data=values))

    monkeypatch.setattr("server.engine.engine.STATISTICS_SECONDS", 0.01)
    config: Any = SimpleNamespace(cache_config=SimpleNamespace(enable_prefix_caching=False, block_size=32))
    llm: Any = Silent()
    nothing: Any = None
    engine = TwinEngine(llm, config, nothing, QueueTimes(STALLED_SECONDS), Failure(tmp_path / "failure", 0))
    (rows,) = await engine.score([1, 2, 3])
    assert (len(rows.values), rows.computed_tokens, rows.queue_seconds) == (2, 3, 0.0)
