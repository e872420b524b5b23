"""BLOOM's fused QKV, packed. Touches vLLM's internals; tested on 0.32; 0.26 has the same interfaces."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

OUTPUT_ON_DIMENSION_1 = {"qweight", "qzeros", "scales"}
NOT_PER_OUTPUT = {"g_idx", "weight_shape"}


def repack_packed_qkv(model: nn.Module) -> None:
    """Let vLLM's BLOOM load packed weights. Any other model is left alone.

    BLOOM's checkpoints order the outputs of the fused projection by head, then query, key, value; vLLM wants query,
    key, value, then head. Its own reordering takes outputs to lie on dimension 0, which holds for float weights only.
    """
    transformer: Any = getattr(model, "transformer", None)
    if hasattr(transformer, "_repack_qkv"):
        heads: int = transformer.config.num_attention_heads

        def repack(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
            return ((name, reordered(name, tensor, heads)) for name, tensor in weights)

        transformer._repack_qkv = repack


def reordered(name: str, tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder the outputs of a tensor of the fused projection; return any other tensor unchanged."""
    kind = name.rpartition(".")[2]
    if "query_key_value" not in name or kind in NOT_PER_OUTPUT:
        return tensor
    axis = 1 if kind in OUTPUT_ON_DIMENSION_1 else 0
    if tensor.dim() <= axis or tensor.shape[axis] == 1:  # one scale for all outputs
        return tensor
    # Eight 4-bit zero points share a word of qzeros; a head is a multiple of eight wide, so whole words move.
    swapped: torch.Tensor = tensor.unflatten(axis, (heads, 3, -1)).transpose(axis, axis + 1).flatten(axis, axis + 2)
    return swapped
