"""The rows of one start, compared with the rows of an earlier start."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.engine.interface import EngineInfo
from server.engine.twin.rows import STATISTICS, WIDTH, Rows
from server.errors import StartError
from server.scoring.canary import check_canary
from tests.test_monitor import models


class Numbers:
    """An engine whose rows depend on the token ids, off by ``error`` where a kernel is broken."""

    is_alive = True

    def __init__(self, dtype: str = "bfloat16", error: float = 0.0, vllm: str = "0.32.0") -> None:
        self.info = EngineInfo(vllm, "cpu", dtype, 128, 500, (1,), 2048, 128)
        self._error = error

    async def score(self, token_ids: list[int], start: int = 0, top: int = 0, *, counts: bool = False) -> list[Rows]:
        assert len(token_ids) <= self.info.max_model_len
        values = np.tile(np.array(token_ids[start + 1 :], np.float32)[:, None] / -100, WIDTH)
        values[-1, STATISTICS.index("quantized_logprob")] += self._error
        return [Rows(values)]


@pytest.mark.parametrize(("dtype", "small"), [("bfloat16", 0.05), ("float32", 1e-4)])
async def test_small_changes_pass(tmp_path: Path, dtype: str, small: float) -> None:
    for error in (0.0, small, -small):
        await check_canary(Numbers(dtype, error), models(), tmp_path)


@pytest.mark.parametrize(
    ("dtype", "error"), [("bfloat16", 0.15), ("float32", 0.01), ("float16", np.nan), ("bfloat16", -np.inf)]
)
async def test_a_broken_kernel_is_not_served(tmp_path: Path, dtype: str, error: float) -> None:
    await check_canary(Numbers(dtype), models(), tmp_path)
    with pytest.raises(StartError, match=r"quantized_logprob of row .* was .* and is .* a kernel is broken"):
        await check_canary(Numbers(dtype, error), models(), tmp_path)
    await check_canary(Numbers(dtype), models(), tmp_path)


async def test_what_may_change_by_intent_is_not_compared(tmp_path: Path) -> None:
    await check_canary(Numbers(), models("one"), tmp_path)
    await check_canary(Numbers(error=1), models("another"), tmp_path)
    await check_canary(Numbers(error=1, vllm="0.33.0"), models("one"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def saved(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


@pytest.mark.parametrize(
    "damage",
    [b"", b"half", b"PK\x03\x04 half a file", saved(np.ones(3)), saved(np.array("x")), saved(np.array([{}]))],
    ids=["empty", "half", "zip", "shape", "text", "pickle"],
)
async def test_a_damaged_file_is_kept_aside_and_written_again(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await check_canary(Numbers(), models(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    await check_canary(Numbers(), models(), tmp_path)
    assert "is damaged" in caplog.text
    assert file.with_suffix(".damaged").read_bytes() == damage
    with pytest.raises(StartError):
        await check_canary(Numbers(error=1), models(), tmp_path)
