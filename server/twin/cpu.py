"""Quantized layers on CPUs for which vLLM has no kernel. Touches vLLM's internals; tested on 0.32.

vLLM's CPU wheel holds several builds of its C++ code and loads the one that the processor allows. The build for
processors without AVX-512 lacks the kernel for packed weights, which vLLM chooses all the same: the engine would fail
in its first step.
"""

import os
from functools import cache

import torch
from vllm.model_executor.kernels.linear import MPLinearKernel, MPLinearLayerConfig, register_linear_kernel
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.model_executor.layers.quantization.auto_gptq import AutoGPTQConfig
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import current_platform
from vllm.platforms.interface import PlatformEnum
from vllm.scalar_type import scalar_types

PACKED_KERNEL = "cpu_gemm_wna16"
"""vLLM's operator for packed weights, absent from its builds for processors without AVX-512."""
DISABLED = "VLLM_DISABLED_KERNELS"


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
        known = (scalar_types.uint4, scalar_types.uint8) if c.zero_points else (scalar_types.uint4b8, scalar_types.uint8b128)
        return (True, None) if c.weight_type in known else (False, f"it does not know weights of type {c.weight_type}")

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Replace the packed weights by floating-point ones, shape (outputs, inputs)."""
        weights, scales, zeros = self._get_weight_params(layer)
        kind = self.config.weight_type
        packed = weights.data if weights.input_dim == 0 else weights.data.t()
        levels = unpack_quantized_values_into_int32(packed, kind, 0)
        scale = (scales.data if scales.output_dim == 1 else scales.data.t()).float()
        zero: torch.Tensor | int = kind.bias
        if self.config.zero_points:
            packed = zeros.data if zeros.output_dim == 1 else zeros.data.t()
            zero = unpack_quantized_values_into_int32(packed, kind, 1)[:, None, :]
        groups = levels.view(len(scale), -1, levels.shape[1])
        values = ((groups - zero).float() * scale[:, None, :]).view_as(levels)
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            if name is not None and hasattr(layer, name):
                delattr(layer, name)
        layer.weight = torch.nn.Parameter(values.t().contiguous().to(self.config.act_type), requires_grad=False)
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Multiply as vLLM does for unquantized layers."""
        product: torch.Tensor = layer.cpu_linear(x, layer.weight, bias)
        return product


@cache
def prepare_cpu() -> None:
    """On a CPU, let vLLM choose the dequantizing kernel where its own is missing or cannot be used, and float32."""
    if not current_platform.is_cpu():
        return
    current_platform.import_kernels()
    if not hasattr(torch.ops._C, PACKED_KERNEL):
        names = [*filter(None, os.environ.get(DISABLED, "").split(",")), CPUWNA16LinearKernel.__name__]
        os.environ[DISABLED] = ",".join(names)
    register_linear_kernel(DequantizedLinearKernel, PlatformEnum.CPU, "mp")
    for config in (AutoGPTQConfig, AutoAWQConfig):
        _allow_float32(config)


def _allow_float32(config: type[AutoGPTQConfig] | type[AutoAWQConfig]) -> None:
    """Add float32 to the dtypes for which vLLM accepts such checkpoints: its GPU kernels have none for it."""
    dtypes = [*config.get_supported_act_dtypes(), torch.float32]
    config.get_supported_act_dtypes = classmethod(lambda _: dtypes)  # type: ignore[assignment,method-assign]
