"""Tiny random pairs of every family, and the same models in transformers as an oracle.

The quantized half is made by plain rounding in GPTQ's file format (or that of compressed-tensors), written from the
format's description, so that the test does not depend on the quantizer. Weights are representable in bfloat16 and
in float16, so that both engines' dtypes start from the same numbers as the oracle.
"""

import json
import shutil
from dataclasses import dataclass
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

from benchmarks.random_pair import gptq_config, pack_gptq, pack_words, quantize, representable

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


def make_pair(
    folder: Path, family: str, group_size: int = 128, tied: bool = False, method: str = "gptq", **settings: Any
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
    _write_quantized(twin, base, quantized, group_size, method, settings)
    for target in (base, quantized):
        for file in TOKENIZER.glob("tokenizer*"):
            shutil.copy(file, target)
    return TinyPair(base, quantized, model, twin)


def _model(config: PretrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    return model


def _write_quantized(
    model: PreTrainedModel, base: Path, folder: Path, group_size: int, method: str, settings: dict[str, Any]
) -> None:
    """Round the model's linear layers in place and write them packed."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            weight = tensors.pop(f"{name}.weight")
            group = weight.shape[1] if group_size == -1 else group_size
            scales, levels = quantize(weight, group)
            module.weight.data = ((levels - 8).view(len(weight), -1, group) * scales[..., None]).view_as(weight)
            packed = PACKERS[method](scales, levels)
            tensors |= {f"{name}.{key}": value for key, value in packed.items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = CONFIGS[method](group_size) | settings
    (folder / "config.json").write_text(json.dumps(config))


def pack_compressed_tensors(scales: torch.Tensor, levels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of compressed-tensors' format "pack-quantized"."""
    return {"weight_packed": pack_words(levels), "weight_scale": scales, "weight_shape": torch.tensor(levels.shape)}


def compressed_tensors_config(group_size: int) -> dict[str, Any]:
    """How compressed-tensors checkpoints describe themselves."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


PACKERS = {"gptq": pack_gptq, "compressed-tensors": pack_compressed_tensors}
CONFIGS = {"gptq": gptq_config, "compressed-tensors": compressed_tensors_config}
