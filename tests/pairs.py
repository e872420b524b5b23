"""Tiny random pairs of every family, and the same models in transformers as an oracle.

The quantized half is made by plain rounding in GPTQ's file format (or that of compressed-tensors), written from the
format's description, so that the test does not depend on the quantizer. Weights are representable in bfloat16 and
in float16, so that both engines' dtypes start from the same numbers as the oracle.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from benchmarks.random_pair import quantize, representable
from server.quantize.gptq_format import gptq_config, pack_gptq, pack_words

TOKENIZER = Path(__file__).parent / "fixtures" / "autogptq-0.7.1-base"
VOCABULARY = 1024
HIDDEN, LAYERS, HEADS, CONTEXT = 128, 2, 2, 512
_GATED = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.045,
}
FAMILIES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, _GATED | {"num_key_value_heads": HEADS}),
    "mistral": (MistralConfig, _GATED | {"num_key_value_heads": 1, "sliding_window": None}),
    "qwen2": (Qwen2Config, _GATED | {"num_key_value_heads": 1}),
    "qwen3": (Qwen3Config, _GATED | {"num_key_value_heads": 1, "head_dim": 64}),
    "opt": (
        OPTConfig,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "word_embed_proj_dim": HIDDEN,
            "ffn_dim": 256,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "init_std": 0.045,
        },
    ),
    "bloom": (
        BloomConfig,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "seq_length": CONTEXT,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "initializer_range": 0.045,
        },
    ),
}


@dataclass(frozen=True)
class TinyPair:
    """Folders of both checkpoints, and both models in float32 in transformers."""

    base: Path
    quantized: Path
    base_model: PreTrainedModel
    quantized_model: PreTrainedModel


@dataclass(frozen=True)
class Format:
    """A format of quantized checkpoints: makes a layer's tensors from scales, levels and bits, and the description."""

    pack: Callable[[torch.Tensor, torch.Tensor, int], dict[str, torch.Tensor]]
    describe: Callable[[int, int], dict[str, Any]]


def pack_compressed_tensors(scales: torch.Tensor, levels: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return a layer's tensors in compressed-tensors' format "pack-quantized"."""
    return {
        "weight_packed": pack_words(levels, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor(levels.shape),
    }


def pack_asymmetric(scales: torch.Tensor, levels: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return the same tensors with zero points."""
    levels, zeros = shifted(scales, levels, bits)
    packed = pack_compressed_tensors(scales, levels, bits)
    return packed | {"weight_zero_point": pack_words(zeros.T, bits).T}


def compressed_tensors_config(group_size: int, bits: int, symmetric: bool = True) -> dict[str, Any]:
    """Return the quantization config of a compressed-tensors checkpoint."""
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group",
        "group_size": group_size,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def pack_awq(scales: torch.Tensor, levels: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return AWQ's tensors: inputs before outputs; a word's levels are along the outputs, even ones first."""
    levels, zeros = shifted(scales, levels, bits)

    def packed(codes: torch.Tensor) -> torch.Tensor:
        return pack_words(codes.unflatten(-1, (-1, 8))[..., [0, 2, 4, 6, 1, 3, 5, 7]].flatten(-2), bits)

    return {"qweight": packed(levels.T), "qzeros": packed(zeros.T), "scales": scales.T}


def awq_config(group_size: int, bits: int) -> dict[str, Any]:
    """Return the quantization config of an AWQ checkpoint."""
    return {"quant_method": "awq", "bits": bits, "group_size": group_size, "zero_point": True, "version": "gemm"}


def shifted(scales: torch.Tensor, levels: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same weights with zero points (out, groups) that alternate between the middle level and one below."""
    shift = (torch.arange(scales.shape[0])[:, None] + torch.arange(scales.shape[1])) % 2
    moved = levels.unflatten(1, (scales.shape[1], -1)) - shift[..., None]
    return moved.flatten(1), 2 ** (bits - 1) - shift


FORMATS = {
    "gptq": Format(pack_gptq, gptq_config),
    "awq": Format(pack_awq, awq_config),
    "compressed-tensors": Format(pack_compressed_tensors, compressed_tensors_config),
    "compressed-tensors-asymmetric": Format(pack_asymmetric, partial(compressed_tensors_config, symmetric=False)),
}


def make_pair(
    folder: Path,
    family: str,
    group_size: int = 128,
    tied: bool = False,
    method: str = "gptq",
    bits: int = 4,
    **settings: Any,
) -> TinyPair:
    """Write a pair to a folder. ``settings`` go to the quantization config as they are."""
    torch.manual_seed(0)
    kind, options = FAMILIES[family]
    config = kind(**options | {"tie_word_embeddings": tied})
    model = _model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms start at 0 and 1, which would hide a mistake in them
                parameter.add_(torch.randn_like(parameter) * 0.05)
            parameter.copy_(representable(parameter))
    base, quantized = folder / "base", folder / "quantized"
    model.save_pretrained(base)
    twin = _model(config)
    twin.load_state_dict(model.state_dict())
    _write_quantized(twin, base, quantized, group_size, FORMATS[method], bits, settings)
    for target in (base, quantized):
        for file in TOKENIZER.glob("tokenizer*"):
            shutil.copy(file, target)
    return TinyPair(base, quantized, model, twin)


def _model(config: PretrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    return model


def _write_quantized(
    model: PreTrainedModel,
    base: Path,
    folder: Path,
    group_size: int,
    form: Format,
    bits: int,
    settings: dict[str, Any],
) -> None:
    """Round the model's linear layers in place and write them packed."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            weight = tensors.pop(f"{name}.weight")
            group = weight.shape[1] if group_size == -1 else group_size
            scales, levels = quantize(weight, group, bits)
            steps = (levels - 2 ** (bits - 1)).view(len(weight), -1, group)
            module.weight.data = (steps * scales[..., None]).view_as(weight)
            packed = form.pack(scales, levels, bits)
            tensors |= {f"{name}.{key}": value for key, value in packed.items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = form.describe(group_size, bits) | settings
    (folder / "config.json").write_text(json.dumps(config))
