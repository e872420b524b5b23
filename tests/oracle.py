"""The same quantities as the server's, in float64 from transformers' float32 logits."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Expected:
    """Per-position statistics of a sequence; entry i describes the prediction of token i + 1."""

    base_logprob: torch.Tensor
    quantized_logprob: torch.Tensor
    kl: torch.Tensor
    reverse_kl: torch.Tensor
    js: torch.Tensor
    base_entropy: torch.Tensor
    quantized_entropy: torch.Tensor
    base_logprobs: torch.Tensor
    quantized_logprobs: torch.Tensor


@torch.no_grad()
def expected(base: PreTrainedModel, quantized: PreTrainedModel, token_ids: list[int]) -> Expected:
    """Statistics of both models over the sequence."""
    ids = torch.tensor([token_ids])
    return from_logits(base(ids).logits[0, :-1], quantized(ids).logits[0, :-1], ids[0, 1:])


def from_logits(base: torch.Tensor, quantized: torch.Tensor, targets: torch.Tensor) -> Expected:
    """Textbook definitions, each in float64."""
    b, q = base.double().log_softmax(-1), quantized.double().log_softmax(-1)
    p_b, p_q = b.exp(), q.exp()
    middle = torch.logaddexp(b, q) - torch.tensor(2.0, dtype=torch.float64).log()
    return Expected(
        base_logprob=b.gather(-1, targets[:, None])[:, 0],
        quantized_logprob=q.gather(-1, targets[:, None])[:, 0],
        kl=(p_b * (b - q)).sum(-1),
        reverse_kl=(p_q * (q - b)).sum(-1),
        js=((p_b * (b - middle)).sum(-1) + (p_q * (q - middle)).sum(-1)) / 2,
        base_entropy=-(p_b * b).sum(-1),
        quantized_entropy=-(p_q * q).sum(-1),
        base_logprobs=b,
        quantized_logprobs=q,
    )
