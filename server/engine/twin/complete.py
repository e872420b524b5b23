"""Whether a checkpoint has all the weights that its model needs.

vLLM allocates weights without setting them, and lets quantized checkpoints lack some (0.32): whatever is in memory
would be served.
"""

from collections.abc import Iterator

import torch
from torch import nn

LEAVES = ("weight", "scales", "weight_scale", "qweight", "weight_packed")
"""Parameters that no model does without. Others have defaults, such as zero points and the scales of a cache."""
SENTINEL = -0x21524111
"""No column of packed weights consists of this word alone, and no row."""


def mark_weights(model: nn.Module) -> None:
    """Fill the weights with what no checkpoint has."""
    for _, weight in _weights(model):
        weight.data.fill_(torch.nan if weight.is_floating_point() else SENTINEL)


def check_weights_loaded(model: nn.Module, name: str) -> None:
    """Raise ValueError, with the model's name, where a marked weight or a part of one has not been loaded."""
    for parameter, weight in _weights(model):
        if _is_marked(weight.data):
            raise ValueError(
                f"the checkpoint of the {name} model is incomplete or damaged: {parameter} is missing in part or "
                "whole, or is not a number"
            )


def _is_marked(weight: torch.Tensor) -> bool:
    if weight.is_floating_point():
        return bool(torch.isnan(weight).any())
    marked = weight == SENTINEL
    # Several tensors of a checkpoint may be joined in either direction.
    return any(bool(marked.all(dim).any()) for dim in range(marked.dim()))


def _weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        # Online quantization has parameters of one byte, and such that have no memory yet.
        if name.rpartition(".")[2] in LEAVES and parameter.itemsize > 1 and not parameter.is_meta:
            yield name, parameter
