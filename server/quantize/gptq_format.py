"""GPTQ's checkpoint format: packed tensors, and their description in config.json."""

from typing import Any

import torch


def gptq_config(group_size: int, bits: int = 4) -> dict[str, Any]:
    """Return the quantization settings in GPTQ's own names."""
    return {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": False, "sym": True}


def pack_gptq(scales: torch.Tensor, levels: torch.Tensor, bits: int = 4) -> dict[str, torch.Tensor]:
    """Return GPTQ's tensors of scales (out, groups) and levels (out, in): inputs before outputs, words along inputs."""
    (out_features, in_features), groups = levels.shape, scales.shape[1]
    # The format stores the zero point minus one.
    zeros = torch.full((groups, out_features), 2 ** (bits - 1) - 1, device=levels.device)
    return {
        "qweight": pack_words(levels, bits).T,
        "qzeros": pack_words(zeros, bits),
        "scales": scales.T,
        "g_idx": (torch.arange(in_features) // (in_features // groups)).int(),
    }


def pack_words(codes: torch.Tensor, bits: int = 4) -> torch.Tensor:
    """Pack codes along the last dimension to int32, as many to a word as it holds, the first in the lowest bits."""
    shifts = torch.arange(0, 32, bits, device=codes.device)
    return (codes.view(*codes.shape[:-1], -1, 32 // bits) << shifts).sum(-1).to(torch.int32)
