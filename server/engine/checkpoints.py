"""Checks of the checkpoints before anything is loaded. No vLLM: what can be refused is refused in seconds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import try_to_load_from_cache
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from server.errors import StartError
from server.weights import WeightsError, check_weights

SHAPE = (
    "hidden_size",
    "n_embd",
    "intermediate_size",
    "ffn_dim",
    "num_hidden_layers",
    "n_layer",
    "num_attention_heads",
    "n_head",
    "num_key_value_heads",
)
"""Fields of a configuration, under the names of several families, that twins share."""
SAMPLE = "The quick brown fox, aged 37, can't jump: «naïve» 東京 🦊\n\tif x == 1:  return {'a': [0]}"


class Source(NamedTuple):
    """Where a model is: a folder or a hub name, and a revision on the hub."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model folder or hub name, with its configuration."""

    name: str
    revision: str | None
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase | None

    @property
    def public_name(self) -> str:
        """The name for clients: a hub name, or the end of a folder's path, the rest of which is not their business."""
        folder = Path(self.name)
        return "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else self.name

    @property
    def folder(self) -> Path:
        """The folder of the files, in the hub's cache for a hub name; FileNotFoundError before they were loaded."""
        folder = Path(self.name)
        if folder.is_dir():
            return folder
        cached = try_to_load_from_cache(self.name, "config.json", revision=self.revision)
        if not isinstance(cached, str):
            raise FileNotFoundError(f"{self.name} was loaded, but is not in the hub's cache")
        return Path(cached).parent

    @property
    def architectures(self) -> list[str]:
        """Class names of the model, as the checkpoint states them."""
        return list(self.config.get("architectures") or [])

    @property
    def commit(self) -> str | None:
        """The commit that the revision stood for on the hub, or the revision as it was given."""
        return self.config.get("_commit_hash") or self.revision

    @property
    def quantization_config(self) -> dict[str, Any] | None:
        """How the checkpoint describes its quantization."""
        return self.config.get("quantization_config") or self.config.get("compression_config")

    @property
    def quantization(self) -> str | None:
        """The quantization method that the checkpoint states, such as "gptq"."""
        return (
            None if self.quantization_config is None else str(self.quantization_config.get("quant_method", "unknown"))
        )


@dataclass(frozen=True)
class Checkpoints:
    """A base and its quantized variants by name, which fit each other, and the tokenizer they share."""

    base: Checkpoint
    variants: Mapping[str, Checkpoint]
    tokenizer: PreTrainedTokenizerBase

    @property
    def all(self) -> list[Checkpoint]:
        """The base and the variants."""
        return [self.base, *self.variants.values()]


def read_checkpoints(
    base_source: Source, variants: Mapping[str, Source], allow_unquantized: bool = False
) -> Checkpoints:
    """Read all checkpoints and check that they fit; StartError says in one sentence why they do not."""
    base = _read(*base_source)
    checkpoints = Checkpoints(base, {name: _read(*source) for name, source in variants.items()}, _own_tokenizer(base))
    for quantized in checkpoints.variants.values():
        _check_pair(base, quantized, allow_unquantized)
    for checkpoint in checkpoints.all:
        if Path(checkpoint.name).is_dir():
            _check_weights(Path(checkpoint.name))
    return checkpoints


def _own_tokenizer(base: Checkpoint) -> PreTrainedTokenizerBase:
    if base.tokenizer is None:
        raise StartError(f"{base.name} has no tokenizer that can be loaded")
    return base.tokenizer


def _check_pair(base: Checkpoint, quantized: Checkpoint, allow_unquantized: bool) -> None:
    if base.architectures != quantized.architectures:
        raise StartError(
            f"the two models have different architectures: {base.name} is {_names(base)}, "
            f"{quantized.name} is {_names(quantized)}"
        )
    for name in SHAPE:
        sizes = base.config.get(name), quantized.config.get(name)
        if None not in sizes and sizes[0] != sizes[1]:
            raise StartError(
                f"the two models have different shapes: {name} is {sizes[0]} in {base.name} "
                f"and {sizes[1]} in {quantized.name}"
            )
    if quantized.quantization is None and not allow_unquantized:
        raise StartError(
            f"{quantized.name} is not quantized (its config.json has no quantization_config); "
            "use --allow-unquantized to compare it all the same"
        )
    vocabularies = base.config.get("vocab_size"), quantized.config.get("vocab_size")
    if vocabularies[0] != vocabularies[1]:
        raise StartError(
            f"the two models have different vocabularies: {base.name} has {vocabularies[0]} tokens, "
            f"{quantized.name} has {vocabularies[1]}"
        )
    _check_same_tokenizer(base, quantized)


def _read(name: str, revision: str | None) -> Checkpoint:
    if os.sep in name and (name.startswith((os.sep, ".")) or name.count(os.sep) > 1) and not Path(name).is_dir():
        raise StartError(f"there is no folder {name}")
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise StartError(f"the folder {name} has no config.json: expected a model checkpoint")
    try:
        config, _ = PretrainedConfig.get_config_dict(name, revision=revision)
    except (OSError, ValueError) as error:
        raise StartError(f"the configuration of {name} cannot be read: {_first_line(error)}") from error
    if not config.get("architectures"):
        raise StartError(f"config.json of {name} names no architectures: expected a causal language model")
    return Checkpoint(name, revision, config, _tokenizer(name, revision))


def _tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False
        )
    except Exception:  # whatever transformers' loaders raise; a checkpoint without a tokenizer is not an error yet
        return None
    return tokenizer


def _check_same_tokenizer(base: Checkpoint, quantized: Checkpoint) -> None:
    ours, theirs = base.tokenizer, quantized.tokenizer
    if ours is None or theirs is None:  # many quantized checkpoints come without one
        return
    ours_vocabulary, theirs_vocabulary = ours.get_vocab(), theirs.get_vocab()
    if ours_vocabulary != theirs_vocabulary:
        differing = set(ours_vocabulary.items()) ^ set(theirs_vocabulary.items())
        raise StartError(
            f"the tokenizers of {base.name} and {quantized.name} differ: "
            f"{len({token for token, _ in differing})} tokens are missing or numbered otherwise in one of them"
        )
    if ours.encode(SAMPLE) != theirs.encode(SAMPLE):
        raise StartError(
            f"the tokenizers of {base.name} and {quantized.name} differ: "
            "they have the same vocabulary but split a sample text differently"
        )


def _check_weights(folder: Path) -> None:
    try:
        check_weights(folder)
    except WeightsError as error:
        raise StartError(str(error)) from error
    if not [*folder.glob("*.safetensors")]:
        raise StartError(
            f"the folder {folder} has no weights: expected *.safetensors files, since others can hold code"
        )


def _names(checkpoint: Checkpoint) -> str:
    return ", ".join(checkpoint.architectures)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
