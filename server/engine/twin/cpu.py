"""Quantized layers on CPUs for which vLLM has no kernel.

Touches vLLM's internals; tested on 0.32; 0.26 has the same names.

vLLM's CPU wheel holds several builds of its C++ code and loads the one that the processor allows. The build for
processors without AVX-512 lacks the kernel for packed weights, which vLLM chooses all the same, and no build has it for
float32: the engine would fail in its first step.
"""

import os
from functools import cache
from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearKernel, MPLinearLayerConfig, register_linear_kernel
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.model_executor.layers.quantization import auto_gptq
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform
from vllm.platforms.interface import PlatformEnum
from vllm.scalar_type import scalar_types

PACKED_KERNEL = "cpu_gemm_wna16"
"""vLLM's operator for packed weights in 16-bit arithmetic, absent from its build for processors without AVX-512."""
DISABLED = "VLLM_DISABLED_KERNELS"
SYMMETRIC = (scalar_types.uint4b8, scalar_types.uint8b128)
WITH_ZERO_POINTS = (scalar_types.uint4, scalar_types.uint8)


class DequantizedLinearKernel(MPLinearKernel):
    """Dequantize the weights once, when they are loaded; then the layer runs as an unquantized one does.

    Takes 4-bit and 8-bit weights with groups of any size, symmetric, or with zero points. Costs the memory of the
    unquantized weights.
    """

    @classmethod
    def get_min_capability(cls) -> int:
        """Return -1: CPUs have no compute capability."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Tell whether a layer's weights can be dequantized, and if not, why."""
        kinds = WITH_ZERO_POINTS if c.zero_points else SYMMETRIC
        return (True, None) if c.weight_type in kinds else (False, f"it does not know weights of type {c.weight_type}")

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Replace the packed weights by floating-point ones, shape (outputs, inputs)."""
        kind = self.config.weight_type
        levels = unpack_quantized_values_into_int32(_inputs_first(layer, self.w_q_name), kind, 0)
        scales = _inputs_first(layer, self.w_s_name).float()
        zeros: torch.Tensor | int = kind.bias
        if self.config.zero_points:
            zeros = unpack_quantized_values_into_int32(_inputs_first(layer, self.w_zp_name), kind, 1)[:, None, :]
        groups = levels.view(len(scales), -1, levels.shape[1])
        values = ((groups - zeros).float() * scales[:, None, :]).view_as(levels)
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            if name is not None and hasattr(layer, name):
                delattr(layer, name)
        layer.weight = torch.nn.Parameter(values.t().contiguous().to(self.config.act_type), requires_grad=False)
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply as vLLM does for unquantized layers."""
        multiply: Any = layer.cpu_linear
        product: torch.Tensor = multiply(x, layer.weight, bias)
        return product


def _inputs_first(layer: torch.nn.Module, name: str | None) -> torch.Tensor:
    """Return a packed parameter with its inputs, or groups of inputs, on dimension 0 and its outputs on dimension 1."""
    parameter: Any = getattr(layer, name or "")
    data: torch.Tensor = parameter.data
    return data if parameter.output_dim == 1 else data.t()


@cache
def allow_float32() -> None:
    """On a CPU, let packed weights be served in float32, for which vLLM's GPU kernels have no variant."""
    for config in (AutoGPTQConfig, AutoAWQConfig) if current_platform.is_cpu() else ():
        _accept(config, torch.float32)


def check_servable(quantization: dict[str, Any]) -> None:
    """Raise ValueError for weights that vLLM's build for this CPU accepts, loads, and then cannot multiply.

    ``quantization`` is the checkpoint's own description. What vLLM refuses itself is left to it.
    """
    groups = dict(quantization.get("config_groups") or {}).values()
    kinds = [(group.get("weights") or {}).get("type") for group in groups]
    if not current_platform.is_cpu() or torch.cpu._is_amx_tile_supported():
        return
    if quantization.get("quant_method") == "fp8" or "float" in kinds:
        raise ValueError(
            "its weights are floating-point numbers of 8 bits, for which vLLM has a kernel on CPUs with AMX only: "
            "serve it on such a CPU or on a GPU, or quantize with GPTQ in 4 or 8 bits"
        )


def choose_kernels(dtype: torch.dtype | str) -> None:
    """On a CPU, offer the dequantizing kernel, and withhold vLLM's own where it is missing or does not take the dtype.

    What counts is which operators vLLM has loaded in this process, before the layers are made.
    """
    if not current_platform.is_cpu():
        return
    allow_float32()
    # Marlin is a kernel for GPUs. Here the choice of a kernel decides, which refuses what none takes.
    vars(auto_gptq)["verify_marlin_supported"] = lambda **_: None
    _register_kernel()
    current_platform.import_kernels()
    if dtype == torch.float32 or not hasattr(torch.ops._C, PACKED_KERNEL):
        names = filter(None, os.environ.get(DISABLED, "").split(","))
        os.environ[DISABLED] = ",".join(dict.fromkeys([*names, CPUWNA16LinearKernel.__name__]))


@cache
def _register_kernel() -> None:
    register_linear_kernel(DequantizedLinearKernel, PlatformEnum.CPU, "mp")


def _accept(config: type[AutoGPTQConfig] | type[AutoAWQConfig], dtype: torch.dtype) -> None:
    dtypes = [*config.get_supported_act_dtypes(), dtype]
    config.get_supported_act_dtypes = classmethod(lambda _: dtypes)  # type: ignore[assignment,method-assign]
