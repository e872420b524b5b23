"""Tiny random pairs of every family, and the same models in transformers as an oracle.

The quantized half is made by plain rounding in GPTQ's file format, written here from the format's description, so
that the test does not depend on the quantizer. Weights are representable in bfloat16 and in float16, so that both
engines' dtypes start from the same numbers as the oracle.
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
    folder: Path, family: str, group_size: int = 128, tied: bool = False, seed: int = 0, **settings: Any
) -> TinyPair:
    """Write a pair to a folder. ``settings`` go to the quantization config as they are."""
    torch.manual_seed(seed)
    kind, options = FAMILIES[family]
    config = kind(**options | {"tie_word_embeddings": tied})
    model = _model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms start at 0 and 1, which would hide a mistake in them
                parameter.add_(torch.randn_like(parameter) * 0.05)
            parameter.copy_(_representable(parameter))
    base, quantized = folder / "base", folder / "quantized"
    model.save_pretrained(base)
    twin = _model(config)
    twin.load_state_dict(model.state_dict())
    _write_quantized(twin, base, quantized, group_size, settings)
    for target in (base, quantized):
        for file in TOKENIZER.glob("tokenizer*"):
            shutil.copy(file, target)
    return TinyPair(base, quantized, model, twin)


def _model(config: PretrainedConfig) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.eval()
    return model


def _write_quantized(
    model: PreTrainedModel, base: Path, folder: Path, group_size: int, settings: dict[str, Any]
) -> None:
    """Round the model's linear layers in place and write them packed."""
    folder.mkdir()
    tensors: dict[str, torch.Tensor] = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            weight = tensors.pop(f"{name}.weight")
            group = weight.shape[1] if group_size == -1 else group_size
            packed, rounded = quantize(weight, group)
            module.weight.data = rounded
            tensors |= {f"{name}.{key}": value for key, value in packed.items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().clone()
        for name, tensor in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group_size,
        "desc_act": False,
        "sym": True,
    } | settings
    (folder / "config.json").write_text(json.dumps(config))


def quantize(weight: torch.Tensor, group_size: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Round a weight (out, in) to 4 bits with a zero point of 8: the packed tensors, and what they stand for."""
    out_features, in_features = weight.shape
    groups = weight.view(out_features, -1, group_size)
    scales = _representable(groups.abs().amax(-1, keepdim=True) / 7)
    levels = (groups / scales).round().clamp(-8, 7) + 8
    rounded = ((levels - 8) * scales).view_as(weight)
    codes = levels.view(out_features, in_features).T.to(torch.int64)  # (in, out)
    zeros = torch.full((in_features // group_size, out_features), 7)  # the format stores the zero point less one
    return {
        "qweight": _pack(codes.T).T,
        "qzeros": _pack(zeros),
        "scales": scales.view(out_features, -1).T,
        "g_idx": (torch.arange(in_features) // group_size).int(),
    }, rounded


def _pack(codes: torch.Tensor) -> torch.Tensor:
    """Eight 4-bit codes along the last dimension to one int32, the first in the lowest bits."""
    words = (codes.view(*codes.shape[:-1], -1, 8) << torch.arange(0, 32, 4)).sum(-1)
    return words.to(torch.int32)


def _representable(tensor: torch.Tensor) -> torch.Tensor:
    """Nearest values that both bfloat16 and float16 hold exactly."""
    return tensor.bfloat16().half().bfloat16().float()
