"""The same quantities as the server's, in float64 from transformers' float32 logits."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

LOGPROB_TOLERANCE = {"bfloat16": 0.03, "float16": 0.005, "float32": 0.0001}
"""How far log-probabilities may be off where models are tiny and logits of order 1. In float32 the engine
and transformers differ in the order of their sums only."""


@dataclass(frozen=True)
class Expected:
    """Per-position statistics of a sequence; entry i describes the prediction of token i + 1."""

    base_logprob: torch.Tensor
    quantized_logprob: torch.Tensor
    kl: torch.Tensor
    reverse_kl: torch.Tensor
    js: torch.Tensor
    total_variation: torch.Tensor
    base_entropy: torch.Tensor
    quantized_entropy: torch.Tensor
    base_logprobs: torch.Tensor
    quantized_logprobs: torch.Tensor


@torch.no_grad()
def expected(base: PreTrainedModel, quantized: PreTrainedModel, token_ids: list[int]) -> Expected:
    """Return the statistics of both models over the sequence."""
    ids = torch.tensor([token_ids], device=base.device)
    return from_logits(base(ids).logits[0, :-1], quantized(ids).logits[0, :-1], ids[0, 1:])


def from_logits(base: torch.Tensor, quantized: torch.Tensor, targets: torch.Tensor) -> Expected:
    """Compute the textbook definitions, each in float64."""
    b, q = base.double().log_softmax(-1), quantized.double().log_softmax(-1)
    p_b, p_q = b.exp(), q.exp()
    middle = torch.logaddexp(b, q) - torch.tensor(2.0, dtype=torch.float64).log()
    return Expected(
        base_logprob=b.gather(-1, targets[:, None])[:, 0],
        quantized_logprob=q.gather(-1, targets[:, None])[:, 0],
        kl=(p_b * (b - q)).sum(-1),
        reverse_kl=(p_q * (q - b)).sum(-1),
        js=((p_b * (b - middle)).sum(-1) + (p_q * (q - middle)).sum(-1)) / 2,
        total_variation=(p_q - p_b).abs().sum(-1) / 2,
        base_entropy=-(p_b * b).sum(-1),
        quantized_entropy=-(p_q * q).sum(-1),
        base_logprobs=b,
        quantized_logprobs=q,
    )


def tolerances(kl: torch.Tensor, dtype: str) -> dict[str, torch.Tensor]:
    """Return how far each quantity may be off at each position, where the exact KL is ``kl``.

    The engine's activations carry 8 (11, 24) bits, its logits are rounded to them, so each log-ratio r = log q - log p
    is off by independent noise of a standard deviation of about sigma; entropies move by at most the largest shift of a
    log-probability. KL is sum(p f(r)) with f(r) about r^2/2, so noise moves it by about sqrt(2 KL) sigma + sigma^2:
    that, with sigma the log-probability tolerance, is its bound, and a quarter of it that of JS. Total variation is
    sum(p |exp(r) - 1|)/2, which noise moves by at most sum(p |noise|)/2, about 0.4 sigma.
    """
    sigma = torch.full_like(kl, LOGPROB_TOLERANCE[dtype])
    divergence = (2 * kl.clamp(min=0)).sqrt() * sigma + sigma**2
    per_model = {f"{model}_{name}": sigma for model in ("base", "quantized") for name in ("logprob", "entropy")}
    return per_model | {"kl": divergence, "reverse_kl": divergence, "js": divergence / 4, "total_variation": sigma / 2}
