"""Weights that no checkpoint has set are found, whole and in part."""

import pytest
import torch
from torch import nn

from server.engine.twin.complete import check_weights_loaded, mark_weights


class Layer(nn.Module):
    """A packed layer as vLLM allocates it: words and scales, zero points with a default, a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.qweight = nn.Parameter(torch.empty(4, 6, dtype=torch.int32), requires_grad=False)
        self.scales = nn.Parameter(torch.empty(2, 6, dtype=torch.float16), requires_grad=False)
        self.qzeros = nn.Parameter(torch.zeros(2, 1, dtype=torch.int32), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(6))


def loaded() -> Layer:
    layer = Layer()
    mark_weights(layer)
    layer.qweight.data.copy_(torch.arange(24).view(4, 6))
    layer.scales.data.fill_(0.5)
    return layer


def test_what_is_loaded_passes_and_defaults_stay() -> None:
    layer = loaded()
    check_weights_loaded(layer, "quantized")
    assert not layer.qzeros.any()
    assert not layer.bias.any()


@pytest.mark.parametrize("name", ["qweight", "scales"])
@pytest.mark.parametrize("part", [(slice(None), slice(None)), (slice(None), slice(4, 6)), (slice(1, 2), slice(None))])
def test_what_is_missing_is_named(name: str, part: tuple[slice, slice]) -> None:
    """All of a weight, or one of several that are joined along its outputs or its inputs."""
    layer, unset = loaded(), Layer()
    mark_weights(unset)
    getattr(layer, name).data[part] = getattr(unset, name).data[part]
    with pytest.raises(
        ValueError, match=f"the checkpoint of the quantized model is incomplete or damaged: {name} is missing"
    ):
        check_weights_loaded(layer, "quantized")
