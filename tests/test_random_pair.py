"""The random pair of the benchmarks: both halves fit each other, and the twin is the base, rounded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.random_pair import GROUP_SIZE, SIZES, RandomPair, dequantize, make_pair, vocabulary
from server.engine.checkpoints import Source, read_checkpoints

VOCABULARY = 1024


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RandomPair:
    return make_pair(tmp_path_factory.mktemp("pair"), SIZES["tiny"], VOCABULARY, request.param)


def weights(half: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint."""
    return {name: tensor for file in half.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_halves_are_a_pair(pair: RandomPair) -> None:
    read = read_checkpoints(Source(str(pair.base)), {"twin": Source(str(pair.quantized))})
    assert [each.quantization for each in read.all] == [None, "gptq"]
    assert len(read.tokenizer.get_vocab()) == VOCABULARY
    assert read.tokenizer.encode("w3 w1023 elsewhere", add_special_tokens=False) == [3, 1023, 2]


def test_twin_is_the_base_within_half_a_step(pair: RandomPair) -> None:
    base, twin = weights(pair.base), weights(pair.quantized)
    rounded = [name.removesuffix(".weight") for name in base if "_proj" in name]
    assert len(rounded) == 7 * SIZES["tiny"].layers
    for name in rounded:
        weight, restored = base.pop(f"{name}.weight").float(), dequantize(twin, name)
        # A step is a seventh of a group's largest weight, itself rounded to the 8 bits of bfloat16 in the scale.
        step = weight.view(len(weight), -1, GROUP_SIZE).abs().amax(-1) / 7 * (1 + 2**-8)
        error = (restored - weight).abs().view(len(weight), -1, GROUP_SIZE).amax(-1)
        assert (error <= step / 2).all()
        assert error.max() > step.max() / 4  # rounded, not copied
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            del twin[f"{name}.{part}"]
    assert base.keys() == twin.keys()
    assert all(torch.equal(base[name], twin[name]) for name in base)


def test_same_weights_again(pair: RandomPair, tmp_path: Path) -> None:
    dtype = "float16" if weights(pair.base)["lm_head.weight"].dtype == torch.float16 else "bfloat16"
    again = weights(make_pair(tmp_path, SIZES["tiny"], VOCABULARY, dtype).quantized)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(pair.quantized).items())


def test_vocabularies_by_name_and_number() -> None:
    assert [vocabulary(text) for text in ("1k", "32k", "128k", "500")] == [1024, 32_000, 128_256, 500]
