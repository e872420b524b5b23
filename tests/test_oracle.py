"""``/compare`` against transformers in float32, for every family that the paper or its users name.

Tolerances are those of tests/oracle.py: for log-probabilities 0.03 in bfloat16, 0.005 in float16, 0.0001 in float32.
"""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from benchmarks.random_pair import dequantize
from demo.local_server import running_server
from tests.conftest import FIXTURES
from tests.oracle import LOGPROB_TOLERANCE, expected, tolerances
from tests.pairs import FAMILIES, VOCABULARY, TinyPair, make_pair

TOP = 5


def check_against_oracle(pair: TinyPair, dtype: str, *arguments: str) -> None:
    """Start a server for the pair and compare everything it says of three sequences."""
    generator = torch.Generator().manual_seed(0)
    with running_server(
        "--model", str(pair.base), "--quantized", str(pair.quantized), "--dtype", dtype, *arguments
    ) as server:
        for length in (2, 61, 300):
            ids = torch.randint(2, VOCABULARY, (length,), generator=generator).tolist()
            reply = httpx.post(f"{server.url}/compare", json={"prompt": ids, "top_logprobs": TOP}, timeout=120)
            assert reply.status_code == 200, reply.text
            check_prompt(reply.json()["prompt"], pair, ids, dtype)


def check_prompt(prompt: dict[str, Any], pair: TinyPair, ids: list[int], dtype: str) -> None:
    """Check the columns of a scored prompt, with TOP likeliest tokens."""
    want = expected(pair.base_model, pair.quantized_model, ids)
    sigma, allowed = LOGPROB_TOLERANCE[dtype], tolerances(want.kl, dtype)
    for model in ("base", "quantized"):
        logprobs = getattr(want, f"{model}_logprobs")
        close(prompt[model]["logprobs"], getattr(want, f"{model}_logprob"), allowed[f"{model}_logprob"])
        close(prompt[model]["entropy"], getattr(want, f"{model}_entropy"), allowed[f"{model}_entropy"])
        close(prompt[model]["confidence"], logprobs.max(-1).values.exp(), sigma)
        check_top(prompt[model], logprobs, sigma)
    for name in ("kl", "reverse_kl", "js"):
        close(prompt[name], getattr(want, name), allowed[name])
    assert min(prompt["kl"][1:]) > 0


def close(column: list[float | None], want: torch.Tensor, tolerance: float | torch.Tensor) -> None:
    """Check that a reply's column is as expected; its first entry, which nothing predicts, is null."""
    assert column[0] is None
    excess = (torch.tensor(column[1:], dtype=torch.float64) - want).abs() - tolerance
    assert excess.max() <= 0, f"off by {excess.max():.2g} more than allowed at {int(excess.argmax()) + 1}"


def check_top(model: dict[str, list[dict[str, list[float]]]], logprobs: torch.Tensor, sigma: float) -> None:
    """Check that the likeliest tokens are as likely as the oracle's; ids may differ where two are nearly equal."""
    assert model["top"][0] is None
    for position, top in enumerate(model["top"][1:]):
        argmax = model["argmax"][position + 1]
        # 16-bit logits are often equal, and then either token may come first.
        assert argmax == top["token_ids"][0] or argmax in top["token_ids"][: _equal(top["logprobs"])]
        ids = torch.tensor(top["token_ids"], dtype=torch.int64)
        reported = torch.tensor(top["logprobs"], dtype=torch.float64)
        assert len(set(top["token_ids"])) == TOP
        assert (reported - logprobs[position][ids]).abs().max() <= sigma
        assert (reported - logprobs[position].topk(TOP).values).abs().max() <= sigma
        assert (reported.diff() <= 0).all()


def _equal(logprobs: list[float]) -> int:
    """Return how many of the likeliest tokens are exactly as likely as the first."""
    return sum(logprob == logprobs[0] for logprob in logprobs)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family(tmp_path: Path, family: str, dtype: str) -> None:
    # BLOOM's checkpoints all tie their head to the embeddings; the others' are tied below.
    check_against_oracle(make_pair(tmp_path, family, tied=family == "bloom"), dtype)


@pytest.mark.parametrize("group_size", [32, -1])
def test_group_size(tmp_path: Path, group_size: int) -> None:
    check_against_oracle(make_pair(tmp_path, "llama", group_size), "float16")


def test_tied_head_and_activation_order_without_effect(tmp_path: Path) -> None:
    # With one group per output, activation order changes nothing; vLLM accepts it only then.
    check_against_oracle(make_pair(tmp_path, "llama", -1, tied=True, desc_act=True), "bfloat16")


def test_checkpoint_written_by_auto_gptq() -> None:
    base, quantized = FIXTURES / "autogptq-0.7.1-base", FIXTURES / "autogptq-0.7.1-quantized"
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    twin: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    tensors = load_file(quantized / "gptq_model-4bit-128g.safetensors")
    for name, module in twin.named_modules():
        if f"{name}.qweight" in tensors:
            module.weight.data = dequantize(tensors, name)
    check_against_oracle(TinyPair(base, quantized, model, twin), "float16")


@pytest.mark.parametrize("method", ["compressed-tensors", "compressed-tensors-asymmetric", "awq"])
def test_other_quantization_than_gptq(tmp_path: Path, method: str) -> None:
    """Nothing depends on GPTQ: the same 4-bit weights in other formats, two of them with zero points."""
    check_against_oracle(make_pair(tmp_path, "llama", method=method), "float16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_8_bits(tmp_path: Path, dtype: str) -> None:
    check_against_oracle(make_pair(tmp_path, "llama", bits=8), dtype)
