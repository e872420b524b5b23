"""``python -m benchmarks.random_pair SIZE OUT``: a Llama with random weights and its GPTQ twin, for benchmarks.

The speed of scoring depends on a pair's shape, not on its weights. The twin is made by plain rounding, with the paper's
settings: 4 bits, groups of 128, symmetric, no ``desc_act``. One shard is in memory at a time, on the GPU if there is
one.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig

from server.quantize.gptq_format import gptq_config, pack_gptq

GROUP_SIZE = 128
CONTEXT = 8192
DEVIATION = 0.02
SPECIAL = ("<s>", "</s>", "<unk>")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
VOCABULARIES = {"1k": 1024, "32k": 32_000, "128k": 128_256}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    """Dimensions of a Llama, except its vocabulary."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SIZES = {
    "tiny": Size(256, 768, 4, 4, 4),  # 4 million parameters with a vocabulary of 1,024
    "small": Size(512, 1408, 8, 8, 8),  # 58 million with one of 32,000
    "1b": Size(2048, 8192, 16, 32, 8),  # 1.5 billion with one of 128,256
    "8b": Size(4096, 14336, 32, 32, 8),  # 8 billion with one of 128,256
}


@dataclass(frozen=True)
class RandomPair:
    """Folders of both halves."""

    base: Path
    quantized: Path


def main() -> None:
    """Make a pair."""
    parser = argparse.ArgumentParser(description="Make a random pair.")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("out", type=Path, help="gets base/ and quantized/")
    parser.add_argument("--vocabulary", type=vocabulary, default=32_000, help="tokens, or 1k, 32k, 128k")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    pair = make_pair(options.out, SIZES[options.size], options.vocabulary, options.dtype)
    print(f"{pair.base}\n{pair.quantized}")


def vocabulary(text: str) -> int:
    """Parse a number of tokens, by name or in digits."""
    size = VOCABULARIES.get(text) or int(text)
    if size <= len(SPECIAL):
        raise ValueError
    return size


def make_pair(folder: Path, size: Size, vocabulary: int, dtype: str = "bfloat16") -> RandomPair:
    """Write both halves to a folder, shard by shard. The same arguments give the same weights on the same device."""
    pair = RandomPair(folder / "base", folder / "quantized")
    config = _config(size, vocabulary, dtype)
    quantization: dict[str, Any] = {"quantization_config": gptq_config(GROUP_SIZE)}
    for half, extra in ((pair.base, {}), (pair.quantized, quantization)):
        half.mkdir(parents=True)
        (half / "config.json").write_text(json.dumps(config | extra, indent=2) + "\n", encoding="utf-8")
        _write_tokenizer(half, vocabulary)
    _write_weights(pair, list(_shards(size, vocabulary)), DTYPES[dtype])
    return pair


def _config(size: Size, vocabulary: int, dtype: str) -> dict[str, Any]:
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype=dtype,
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    described: dict[str, Any] = config.to_dict()
    return described


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write a tokenizer with a word for each id, split at spaces."""
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), vocabulary))]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | dict(
        zip(("bos_token", "eos_token", "unk_token"), SPECIAL, strict=True)
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")


def _shards(size: Size, vocabulary: int) -> Iterator[Shapes]:
    """Yield the tensors' names and shapes: embeddings, a layer each, head."""
    hidden, wide, narrow = size.hidden, size.intermediate, size.hidden // size.heads * size.kv_heads
    layer: Shapes = {
        "input_layernorm": (hidden,),
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "post_attention_layernorm": (hidden,),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    yield {"model.embed_tokens": (vocabulary, hidden)}
    for i in range(size.layers):
        yield {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    yield {"model.norm": (hidden,), "lm_head": (vocabulary, hidden)}


def _write_weights(pair: RandomPair, shards: list[Shapes], dtype: torch.dtype) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    indices: dict[Path, dict[str, str]] = {pair.base: {}, pair.quantized: {}}
    for i, shapes in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        halves: dict[Path, dict[str, torch.Tensor]] = {pair.base: {}, pair.quantized: {}}
        for name, shape in shapes.items():
            weight = _random(shape, dtype, device, generator)
            tensors = {f"{name}.weight": weight}
            halves[pair.base] |= tensors
            if "_proj" in name:
                packed = pack_gptq(*quantize(weight.float(), GROUP_SIZE))
                tensors = {f"{name}.{key}": tensor for key, tensor in packed.items()}
                tensors[f"{name}.scales"] = tensors[f"{name}.scales"].half()
            halves[pair.quantized] |= tensors
        for half, tensors in halves.items():
            save_file({name: each.cpu().contiguous() for name, each in tensors.items()}, half / file, {"format": "pt"})
            indices[half] |= dict.fromkeys(tensors, file)
    for half, index in indices.items():
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=2)
        (half / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    torch.cuda.empty_cache()  # for the engines that this process may start


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:  # a norm
        return torch.ones(shape, dtype=dtype, device=device)
    return (torch.randn(shape, generator=generator, device=device) * DEVIATION).to(dtype)


def quantize(weight: torch.Tensor, group_size: int, bits: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales (out, groups) and levels from 1 (out, in) of a weight (out, in), rounded about the middle level."""
    groups, zero = weight.view(len(weight), -1, group_size), 2 ** (bits - 1)
    scales = representable(groups.abs().amax(-1, keepdim=True) / (zero - 1))
    levels = (groups / scales).round().clamp(1 - zero, zero - 1) + zero
    return scales[..., 0], levels.view_as(weight).to(torch.int64)


def dequantize(tensors: dict[str, torch.Tensor], name: str, bits: int = 4) -> torch.Tensor:
    """Return the weight (out, in) of a layer in a GPTQ checkpoint, whose zero points are stored minus one."""
    qweight, qzeros, scales = (tensors[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
    shifts, top = torch.arange(0, 32, bits, device=qweight.device), 2**bits - 1
    levels = (qweight[:, None, :] >> shifts[None, :, None] & top).flatten(0, 1)
    zeros = (qzeros[:, :, None] >> shifts & top).flatten(1) + 1
    group = tensors[f"{name}.g_idx"].long()
    weight: torch.Tensor = scales[group].float() * (levels - zeros[group])
    return weight.T


def representable(tensor: torch.Tensor) -> torch.Tensor:
    """Round to values that both bfloat16 and float16 hold exactly."""
    return tensor.bfloat16().half().bfloat16().float()


if __name__ == "__main__":
    main()
