"""What a model costs: bytes, bits per weight, and how much of that is information. Read from its weight files."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from qconf.wire import ModelSize
from server.engine.checkpoints import Checkpoint, Checkpoints

SAMPLE_BYTES = 2**24
"""Read of each model for entropy and compression, the same share of every tensor, from its middle."""
BYTES = {"I8", "U8", "F8_E4M3", "F8_E5M2"}
WORDS = {"I32"}
PACKED = ("qweight", "weight_packed")


@dataclass(frozen=True)
class _Tensor:
    file: Path
    name: str
    dtype: str
    shape: list[int]
    count: int
    bytes: int

    @property
    def quantized(self) -> bool:
        """Whether it holds quantized values: integers or bytes in two dimensions, under a name for weights."""
        packed = self.dtype in WORDS and self.name.endswith(PACKED)
        return packed or (self.dtype in BYTES and len(self.shape) > 1 and self.name.endswith(("weight", *PACKED)))

    def sample(self, most_bytes: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        """Return the bytes of rows in the middle: whole rows, at least one."""
        rows = max(1, min(self.shape[0], most_bytes * self.shape[0] // self.bytes))
        first = (self.shape[0] - rows) // 2
        with safe_open(self.file, "pt") as weights:
            middle: torch.Tensor = weights.get_slice(self.name)[first : first + rows]
        sample: np.ndarray[Any, np.dtype[np.uint8]] = middle.contiguous().view(torch.uint8).numpy().reshape(-1)
        return sample


def model_sizes(checkpoints: Checkpoints) -> list[ModelSize | None]:
    """Measure base and variants; bits per weight are per weight of the base. None without safetensors files."""
    weights = sum(each.count for each in _tensors(checkpoints.base.folder))
    return [_size(list(_tensors(each.folder)), weights, each) for each in checkpoints.all]


def _size(tensors: list[_Tensor], weights: int, checkpoint: Checkpoint) -> ModelSize | None:
    quantized = [each for each in tensors if each.quantized]
    sampled = quantized or [each for each in tensors if len(each.shape) > 1]
    if not (weights and sampled):
        return None
    total = sum(each.bytes for each in sampled)
    samples = [each.sample(SAMPLE_BYTES * each.bytes // total) for each in sampled]
    data = np.concatenate(samples)
    stored = sum(each.bytes for each in tensors)
    bits = _bits(checkpoint.quantization_config) if quantized else None
    return ModelSize(
        bytes=stored,
        bits_per_weight=8 * stored / weights,
        quantized_bits=bits,
        quantized_entropy=None if bits is None else entropy(data, bits),
        compression_ratio=len(data) / len(zlib.compress(data.tobytes())),
    )


def _tensors(folder: Path) -> Iterator[_Tensor]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no mapping
                described = weights.get_slice(name)
                dtype, shape = described.get_dtype(), described.get_shape()
                if count := math.prod(shape):
                    yield _Tensor(file, name, dtype, shape, count, _itemsize(dtype) * count)


def _itemsize(dtype: str) -> int:
    digits = "".join(each for each in dtype.partition("_")[0] if each.isdigit())
    return max(8, int(digits or 8)) // 8


def _bits(config: dict[str, Any] | None) -> int | None:
    """Return the bits of a quantized value, None where the configuration does not say it in a way that we know."""
    config = config or {}
    groups = [(group.get("weights") or {}).get("num_bits") for group in (config.get("config_groups") or {}).values()]
    found = {config.get("bits") or config.get("w_bit")} if not groups else set(groups)
    if config.get("quant_method") == "fp8":
        found = {8}
    bits = found.pop() if len(found) == 1 else None
    return bits if bits in (1, 2, 4, 8) else None


def entropy(data: "np.ndarray[Any, np.dtype[np.uint8]]", bits: int) -> float:
    """Return the Shannon entropy of the packed values' distribution, in bits for each value: ``-sum p log2 p``.

    Values of 1, 2, 4 or 8 bits do not cross bytes, however they are packed into words.
    """
    counts = np.bincount(data, minlength=256)
    values = np.arange(256)
    of_values = sum(
        np.bincount(values >> shift & (2**bits - 1), weights=counts, minlength=2**bits) for shift in range(0, 8, bits)
    )
    shares = np.asarray(of_values) / (len(data) * (8 // bits))
    seen = shares[shares > 0]
    return float(-(seen * np.log2(seen)).sum()) + 0.0
