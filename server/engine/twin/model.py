"""Two ordinary vLLM models as one: the same batch, scheduler, paged KV cache and prefix cache for both.

Touches vLLM's internals; tested on 0.32; 0.26 has the same interfaces.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import nn
from vllm import ModelRegistry
from vllm.config import ModelConfig, VllmConfig
from vllm.config.utils import replace
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.interfaces_base import VllmModelForPooling
from vllm.platforms import current_platform

from server.engine.twin.bloom import repack_packed_qkv
from server.engine.twin.compiled import Compiled
from server.engine.twin.complete import check_weights_loaded, mark_weights
from server.engine.twin.cpu import choose_kernels
from server.engine.twin.kernels import statistics
from server.engine.twin.pooler import TwinPooler

BASE, QUANTIZED = "base.", "quantized."


class Twin(nn.Module, VllmModelForPooling):
    """The pair. Its hidden states are those of the base model, then those of the quantized one, side by side."""

    is_pooling_model = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        choose_kernels(vllm_config.model_config.dtype)
        config = vllm_config.model_config.hf_config
        self.base = initialize_model(
            vllm_config=vllm_config.with_hf_config(config, architectures=config.qconf_architectures),
            prefix=BASE.rstrip("."),
        )
        model = vllm_config.model_config
        quantized = quantized_model_config(model, model.max_model_len)
        self.quantized = initialize_model(
            vllm_config=replace(
                vllm_config,
                model_config=quantized,
                quant_config=VllmConfig.get_quantization_config(quantized, vllm_config.load_config),
            ),
            prefix=QUANTIZED.rstrip("."),
        )
        repack_packed_qkv(self.quantized)
        self.secondary_weights = [
            DefaultModelLoader.Source(quantized.model, revision=quantized.revision, prefix=QUANTIZED)
        ]
        vocab_size = vllm_config.model_config.get_vocab_size()
        self.pooler = TwinPooler(self.compute_both_logits, Compiled(statistics), vocab_size)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings of the base model (vLLM asks every model for them; the pair itself does not use them)."""
        embeddings: torch.Tensor = self.base.embed_input_ids(input_ids)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Hidden states of both models, shape (tokens, 2 * hidden size)."""
        return torch.cat([self.base(input_ids, positions), self.quantized(input_ids, positions)], -1)

    def compute_both_logits(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits of the base and of the quantized model, each of shape (tokens, vocabulary)."""
        base, quantized = hidden_states.chunk(2, -1)
        return self.base.compute_logits(base.contiguous()), self.quantized.compute_logits(quantized.contiguous())

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Hand each model the tensors of its own checkpoint; returns the names of the parameters that were set."""
        for model in (self.base, self.quantized):
            mark_weights(model)
        loaded: set[str] = set()
        # vLLM reads one checkpoint after the other, so neither is ever held in memory whole.
        for is_quantized, group in groupby(weights, key=lambda weight: weight[0].startswith(QUANTIZED)):
            model, prefix = (self.quantized, QUANTIZED) if is_quantized else (self.base, BASE)
            names = _loaded(model, prefix, ((name.removeprefix(QUANTIZED), tensor) for name, tensor in group))
            loaded |= {prefix + name for name in names}
        for prefix, model in ((BASE, self.base), (QUANTIZED, self.quantized)):
            check_weights_loaded(model, prefix.rstrip("."))
        return loaded


def _loaded(model: nn.Module, prefix: str, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
    """Load one model. An error names the tensor at which it came, which vLLM's own do not."""
    reached = ""

    def named() -> Iterator[tuple[str, torch.Tensor]]:
        nonlocal reached
        for weight in weights:
            reached = weight[0]
            yield weight

    try:
        names: set[str] = model.load_weights(named())  # type: ignore[operator]  # models of vLLM have it
    except Exception as error:
        role, why = prefix.rstrip("."), str(error) or type(error).__name__
        raise ValueError(f"the checkpoint of the {role} model cannot be loaded at {reached}: {why}") from error
    return names


def quantized_model_config(base: ModelConfig, max_model_len: int | None) -> ModelConfig:
    """Derive the quantized model's configuration from the pair's: the same dtype and tokenizer.

    Without a context length it is the longest that the checkpoint allows; one that is longer raises ValueError.
    """
    config = base.hf_config
    import_models(config.qconf_architectures)
    return ModelConfig(
        model=config.qconf_quantized,
        revision=config.qconf_quantized_revision,
        tokenizer=base.tokenizer,
        trust_remote_code=base.trust_remote_code,
        dtype=base.dtype,
        max_model_len=max_model_len,  # type: ignore[arg-type]  # None asks for the longest
        enforce_eager=base.enforce_eager,
        hf_overrides=dict(config.qconf_overrides),
        runner="generate",
    )


def import_models(architectures: list[str]) -> None:
    """On a CPU, let vLLM look at the classes in this process.

    By default vLLM inspects each class in a subprocess (eight seconds) to avoid initializing CUDA here.
    """
    for name in architectures if current_platform.is_cpu() else []:
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
