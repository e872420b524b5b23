"""Bytes, bits per weight, entropy and compression of checkpoints, compared with counts made another way."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import entropy as reference_entropy  # type: ignore[import-untyped]

from qconf.demo import PAIR
from qconf.wire import ModelSize
from server.engine.checkpoints import Checkpoint, Checkpoints, Source, read_checkpoints
from server.engine.size import entropy, model_sizes
from tests.pairs import awq_config, compressed_tensors_config, pack_awq, pack_compressed_tensors, shifted


def sizes(folder: Path, quantized: dict[str, torch.Tensor], config: dict[str, Any]) -> ModelSize:
    """Measure a checkpoint of these tensors beside a base of 64 x 256 weights in 16 bits."""
    for name, tensors in (("base", {"weight": torch.randn(64, 256, dtype=torch.bfloat16)}), ("quantized", quantized)):
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
    base = Checkpoint(str(folder / "base"), None, {}, None)
    twin = Checkpoint(str(folder / "quantized"), None, {"quantization_config": config}, None)
    _, size = model_sizes(Checkpoints(base, {"twin": twin}, None))  # type: ignore[arg-type]
    assert size is not None
    return size


def levels(count: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).binomial(15, 0.5, (64, count)), dtype=torch.int32)


def test_the_demo_pair_is_counted_as_its_files_say() -> None:
    base, twin = model_sizes(
        read_checkpoints(Source(str(PAIR / "base")), {"quantized": Source(str(PAIR / "quantized"))})
    )
    assert base is not None
    assert twin is not None
    tensors = {role: load_file(PAIR / role / "model.safetensors") for role in ("base", "quantized")}
    weights = sum(each.numel() for each in tensors["base"].values())
    for role, size in (("base", base), ("quantized", twin)):
        stored = sum(each.numel() * each.element_size() for each in tensors[role].values())
        assert size.bytes == stored
        assert size.bits_per_weight == pytest.approx(8 * stored / weights)
    assert base.bits_per_weight == 16
    assert (base.quantized_bits, base.quantized_entropy) == (None, None)
    packed = [each.numpy() for name, each in tensors["quantized"].items() if name.endswith("qweight")]
    values = np.concatenate([(each[..., None] >> np.arange(0, 32, 4) & 15).ravel() for each in packed])
    expected = reference_entropy(np.bincount(values), base=2)
    assert twin.quantized_bits == 4
    # The same sample: the demo pair is smaller than one.
    assert twin.quantized_entropy == pytest.approx(expected, rel=1e-12)
    data = b"".join(each.tobytes() for each in packed)
    assert twin.compression_ratio == pytest.approx(len(data) / len(zlib.compress(data)), rel=0.001)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("spread", ["uniform", "constant", "binomial"])
def test_the_entropy_is_of_the_packed_values(bits: int, spread: str) -> None:
    rng = np.random.default_rng(1)
    most = 2**bits - 1
    values = {
        "uniform": rng.integers(0, most + 1, 80_000),
        "constant": np.full(80_000, most),
        "binomial": rng.binomial(most, 0.3, 80_000),
    }[spread]
    packed = np.zeros(len(values) * bits // 8, np.uint8)
    for place, column in enumerate(values.reshape(len(packed), 8 // bits).T):
        packed |= (column << bits * place).astype(np.uint8)
    assert entropy(packed, bits) == pytest.approx(reference_entropy(np.bincount(values), base=2), abs=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_constant_values_hold_nothing_and_random_ones_cannot_be_compressed(tmp_path: Path, constant: bool) -> None:
    words = torch.zeros(64, 256, dtype=torch.int32) if constant else torch.randint(-(2**31), 2**31, (64, 256)).int()
    size = sizes(tmp_path, {"q.qweight": words}, {"quant_method": "gptq", "bits": 4})
    assert size.quantized_entropy == pytest.approx(0 if constant else 4, abs=1e-3)
    if constant:
        assert size.compression_ratio > 100
    else:
        assert size.compression_ratio == pytest.approx(1, abs=0.01)


def test_other_packings_have_the_same_values(tmp_path: Path) -> None:
    scales = torch.ones(64, 2)
    for name, tensors, config, values in (
        (
            "compressed",
            pack_compressed_tensors(scales, levels(256), 4),
            compressed_tensors_config(128, 4),
            levels(256),
        ),
        ("awq", pack_awq(scales, levels(256), 4), awq_config(128, 4), shifted(scales, levels(256), 4)[0]),
    ):
        (tmp_path / name).mkdir()
        size = sizes(tmp_path / name, {f"layer.{key}": each.contiguous() for key, each in tensors.items()}, config)
        assert size.quantized_bits == 4
        expected = reference_entropy(torch.bincount(values.ravel()).numpy(), base=2)
        assert size.quantized_entropy == pytest.approx(expected, rel=1e-12)


def test_float8_counts_bytes(tmp_path: Path) -> None:
    weight = torch.randn(64, 256).to(torch.float8_e4m3fn)
    size = sizes(tmp_path, {"a.weight": weight, "a.weight_scale": torch.ones(1)}, {"quant_method": "fp8"})
    counts = np.bincount(weight.view(torch.uint8).numpy().ravel())
    assert size.quantized_bits == 8
    assert size.bits_per_weight == pytest.approx(8 * (64 * 256 + 4) / (64 * 256))
    assert size.quantized_entropy == pytest.approx(reference_entropy(counts, base=2), rel=1e-12)


def test_what_the_configuration_does_not_say_is_left_out(tmp_path: Path) -> None:
    size = sizes(tmp_path, {"a.qweight": torch.zeros(8, 8, dtype=torch.int32)}, {"quant_method": "new"})
    assert (size.quantized_bits, size.quantized_entropy) == (None, None)


def test_weights_in_other_files_have_no_size(tmp_path: Path) -> None:
    checkpoint = Checkpoint(str(tmp_path), None, {}, None)
    checkpoints = Checkpoints(checkpoint, {"one": checkpoint, "two": checkpoint}, None)  # type: ignore[arg-type]
    assert model_sizes(checkpoints) == [None, None, None]
