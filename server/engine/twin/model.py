"""Two or more ordinary vLLM models as one: the same batch, scheduler, paged KV cache and prefix cache for all.

Touches vLLM's internals; tested on 0.32; 0.26 has the same interfaces.
"""

from collections.abc import Iterable, Iterator, Mapping
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

BASE = "base"


class Twin(nn.Module, VllmModelForPooling):
    """The base and its quantized variants. Its hidden states are the base's, then each variant's, side by side."""

    is_pooling_model = True

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        choose_kernels(vllm_config.model_config.dtype)
        config = vllm_config.model_config.hf_config
        base = initialize_model(
            vllm_config=vllm_config.with_hf_config(config, architectures=config.qconf_architectures), prefix=BASE
        )
        self._models = {BASE: base}
        self._called = {BASE: BASE}
        self.secondary_weights = []
        names = [variant["name"] for variant in config.qconf_variants]
        for number, quantized in enumerate(variant_configs(vllm_config.model_config)):
            # A number of its own in a layer's name would be taken for the layer's.
            name = f"quantized{number}"
            self._called[name] = names[number]
            self._models[name] = initialize_model(
                vllm_config=replace(
                    vllm_config,
                    model_config=quantized,
                    quant_config=VllmConfig.get_quantization_config(quantized, vllm_config.load_config),
                ),
                prefix=name,
            )
            repack_packed_qkv(self._models[name])
            source = DefaultModelLoader.Source(quantized.model, revision=quantized.revision, prefix=f"{name}.")
            self.secondary_weights.append(source)
        for name, model in self._models.items():
            self.add_module(name, model)
        vocab_size = vllm_config.model_config.get_vocab_size()
        self.pooler = TwinPooler(self.compute_all_logits, Compiled(statistics), vocab_size, len(self._models) - 1)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Token embeddings of the base model (vLLM asks every model for them; they are not used here)."""
        embeddings: torch.Tensor = self._models[BASE].embed_input_ids(input_ids)
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: None = None,
        **_: Any,
    ) -> torch.Tensor:
        """Hidden states of all models, shape (tokens, models * hidden size)."""
        return torch.cat([model(input_ids, positions) for model in self._models.values()], -1)

    def compute_all_logits(self, hidden_states: torch.Tensor) -> list[torch.Tensor]:
        """Compute the logits of each model, the base first, each of shape (tokens, vocabulary)."""
        parts = hidden_states.chunk(len(self._models), -1)
        return [
            model.compute_logits(part.contiguous()) for model, part in zip(self._models.values(), parts, strict=True)
        ]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Hand each model the tensors of its own checkpoint; returns the names of the parameters that were set."""
        for model in self._models.values():
            mark_weights(model)
        loaded: set[str] = set()
        # vLLM reads one checkpoint after the other, so none is ever held in memory whole.
        for role, group in groupby(weights, key=lambda weight: self._role(weight[0])):
            its = ((name.removeprefix(f"{role}."), tensor) for name, tensor in group)
            loaded |= {f"{role}.{name}" for name in _loaded(self._models[role], self._called[role], its)}
        for role, model in self._models.items():
            check_weights_loaded(model, self._called[role])
        return loaded

    def _role(self, name: str) -> str:
        """Return whose tensor it is: the base's have no prefix."""
        prefix = name.partition(".")[0]
        return prefix if prefix in self._models else BASE


def _loaded(model: nn.Module, called: str, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
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
        why = str(error) or type(error).__name__
        raise ValueError(f"the checkpoint of the {called} model cannot be loaded at {reached}: {why}") from error
    return names


def variant_configs(base: ModelConfig) -> list[ModelConfig]:
    """Derive each variant's configuration from the base's, which has the context length of all."""
    return [variant_config(base, variant, base.max_model_len) for variant in base.hf_config.qconf_variants]


def variant_config(base: ModelConfig, variant: Mapping[str, str | None], max_model_len: int | None) -> ModelConfig:
    """Derive a variant's configuration from the base's: the same dtype and tokenizer.

    Without a context length it is the longest that the checkpoint allows; one that is longer raises ValueError.
    """
    config = base.hf_config
    import_models(config.qconf_architectures)
    return ModelConfig(
        model=variant["model"],  # type: ignore[arg-type]  # it is never None
        revision=variant["revision"],
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
