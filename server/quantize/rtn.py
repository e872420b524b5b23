"""Round a model's weights to nearest, on the grid of GPTQ and in its checkpoint format: GPTQ without its compensation.

No calibration text is needed. It is the baseline that shows what GPTQ gains.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from server.quantize.errors import QuantizeError
from server.quantize.gptq_format import gptq_config, pack_gptq
from server.quantize.options import Options


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Return the layers that are quantized, by name: every linear layer but the head."""
    head = model.get_output_embeddings()
    modules = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, nn.Linear) and module is not head}


def check_layers(layers: dict[str, nn.Linear], options: Options) -> None:
    """Raise QuantizeError for layers that cannot be rounded or packed."""
    if not layers:
        raise QuantizeError(f"{options.model} has no linear layers to round, expected a model with torch.nn.Linear")
    per_word = 32 // options.bits
    for name, layer in layers.items():
        for size in (layer.in_features, layer.out_features):
            if size % per_word:
                raise QuantizeError(
                    f"--bits {options.bits} packs {per_word} weights to a word, "
                    f"which does not divide the {size} of {name}"
                )


def round_model(source: Path, folder: Path, options: Options) -> None:
    """Write the model in ``source`` to ``folder``, its linear layers rounded and packed."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    packed: dict[str, torch.Tensor] = {}
    layers = linear_layers(model)
    for name, layer in layers.items():
        tensors = pack_gptq(
            *round_to_nearest(layer.weight.detach().float(), options.group_size, options.bits), options.bits
        )
        tensors["scales"] = tensors["scales"].half()  # as GPTQModel writes them
        packed |= {f"{name}.{part}": tensor.contiguous() for part, tensor in tensors.items()}
    model.to(getattr(torch, options.dtype))
    rounded = {f"{name}.weight" for name in layers}
    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in rounded}
    model.config.quantization_config = gptq_config(options.group_size, options.bits)
    model.save_pretrained(folder, state_dict=kept | packed)
    for file in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", file)  # safetensors' own mode shuts out a server of another user


def round_to_nearest(weight: torch.Tensor, group_size: int, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales (out, groups) and levels (out, in) of a weight (out, in); a group size of -1 is a whole row.

    In each group, scale = 2 max|w| / (2^bits - 1), level = clamp(round(w / scale) + zero, 0, 2^bits - 1) with the zero
    point 2^(bits - 1), and the weight is scale (level - zero): the symmetric grid in the code of Frantar et al.,
    "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (ICLR 2023).
    """
    groups = weight.unflatten(1, (-1, weight.shape[1] if group_size == -1 else group_size))
    largest, top = groups.abs().amax(-1, keepdim=True), 2**bits - 1
    scales = 2 * torch.where(largest == 0, 1, largest) / top
    levels = ((groups / scales).round() + 2 ** (bits - 1)).clamp(0, top)
    return scales[..., 0], levels.flatten(1).long()
