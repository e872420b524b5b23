"""Weight files that are missing, truncated or damaged are found from their headers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from server.weights import WeightsError, check_weights

WHOLE = save({"a": np.arange(600, dtype=np.float32).reshape(20, 30), "b": np.zeros(0, np.float16)})
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")
DAMAGED = {
    "last byte missing": (WHOLE[:-1], "incomplete metadata, file not fully covered"),
    "only the header": (WHOLE[:HEADER], "incomplete metadata, file not fully covered"),
    "a byte too many": (WHOLE + b"\0", "incomplete metadata, file not fully covered"),
    "cut in the header": (WHOLE[: HEADER - 1], "invalid header length"),
    "empty": (b"", "header too small"),
    "another format": (b"version https://git-lfs.github.com/spec/v1\n", "header too large"),
    "not JSON": (WHOLE[:8] + b"x" + WHOLE[9:], "invalid JSON in header: expected value at line 1 column 1"),
}


def test_whole_files_pass(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name in names:
        save_file({name: np.ones((3, 4), np.float32)}, tmp_path / name)
    index = {"weight_map": dict(zip(names, names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check_weights(tmp_path)


@pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(WHOLE)
    file = tmp_path / "b.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        check_weights(tmp_path)
    assert str(caught.value) == f"the weight file {file} is truncated or damaged: {reason}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(WHOLE)
    with pytest.raises(WeightsError, match=r"names model-2\.safetensors, which is missing$"):
        check_weights(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 1}'])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json is damaged: expected a JSON object"):
        check_weights(tmp_path)
