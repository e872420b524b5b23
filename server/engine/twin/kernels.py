r"""Statistics of the base's and each variant's distribution from their logits, in float32, without catastrophic
cancellation.

With a, b the logits less their row maxima, log s = log sum(exp(a)), p = softmax of the base model, q of a quantized
variant, and r = log q - log p:

* log-probability of token t: a[t] - log s. Subtracting the maximum first keeps both terms small where p[t] is near 1.
* likeliest token: the next token itself where it is one of several with the largest logit, else the first of them.
* entropy: log s - sum(p a); both terms are non-negative, so nothing cancels.
* KL(p || q) = sum((q - p) - p r). The sum of q - p is zero, so this is the definition, sum(-p r), with a control
  term that makes every summand non-negative and removes, to first order, the rounding error that log s brings into r.
  As a difference of two large sums the same number loses about 2e-5 nats, more than a good twin's KL.
* total variation = 1/2 sum |q - p|, the largest difference of any event's probabilities. 1 - TV is the share of drafted
  tokens that speculative decoding accepts (Leviathan et al. 2023, arXiv 2211.17192, theorem 3.5 and corollary 3.6).
* JS(p, q) = -1/2 sum((p + q) log((1 + exp(-|r|))/2) + |r| min(p, q)). The usual form, with the mean of p and q in
  its logarithms, is this after the larger of the two is drawn out of each; the logarithm lies between -log 2 and 0.

|q - p| is max(p, q) (1 - exp(-|r|)), which never overflows and keeps its digits where p and q nearly agree. Equal
logits give r = 0 in every entry and so exactly 0 for all four divergences.

Written to be compiled: expressions of whole rows, from which the compiler makes three passes over the 16-bit logits
(largest; sum of exponentials; all else) that hold nothing of the vocabulary's size. Without, it is correct and slow.
What is of the base alone is computed once for all variants.
"""

from typing import NamedTuple

import torch

from server.engine.twin.rows import STATISTICS

SUMMED_AT_ONCE = 64
"""Positions whose probabilities ``expected_counts`` holds at once."""


def statistics(target: torch.Tensor, base: torch.Tensor, *variants: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Compute the columns STATISTICS for each variant from the ids of the next tokens (positions,) and logits
    (positions, vocabulary): shape (positions, variants, columns).

    With them come the normalizers of each model's logits, the base's first, for ``likeliest``.
    """
    target = target[:, None]
    of_base = _distribution(base, target)
    of_variants = [_distribution(logits, target) for logits in variants]
    rows = torch.stack([_columns(of_base, each) for each in of_variants], 1)
    return rows, *(each.normalizer for each in (of_base, *of_variants))


class _Distribution(NamedTuple):
    """One model's: logits less their maximum, probabilities, and of each row the normalizer (the maximum, and the
    logarithm of the sum of the others' exponentials), log-probability of the target, entropy, confidence, argmax."""

    shifted: torch.Tensor
    probabilities: torch.Tensor
    normalizer: torch.Tensor
    logprob: torch.Tensor
    entropy: torch.Tensor
    confidence: torch.Tensor
    argmax: torch.Tensor


def _columns(base: _Distribution, quantized: _Distribution) -> torch.Tensor:
    p, q = base.probabilities, quantized.probabilities
    r = (quantized.shifted - base.shifted) - (quantized.normalizer[:, 1:] - base.normalizer[:, 1:])
    magnitude = r.abs()
    shrink = torch.expm1(-magnitude)
    difference = torch.copysign(torch.maximum(p, q) * shrink, r)  # q - p
    columns = {
        "base_logprob": base.logprob,
        "quantized_logprob": quantized.logprob,
        "kl": _total(difference - p * r),
        "reverse_kl": _total(q * r - difference),
        "js": _total(-0.5 * ((p + q) * _log_half(shrink) + torch.minimum(p, q) * magnitude)),
        "total_variation": (0.5 * _total(difference.abs())).clamp(max=1),
        "base_entropy": base.entropy,
        "quantized_entropy": quantized.entropy,
        "base_confidence": base.confidence,
        "quantized_confidence": quantized.confidence,
        "base_argmax": base.argmax,
        "quantized_argmax": quantized.argmax,
    }
    return torch.cat([columns[name] for name in STATISTICS], -1)


def likeliest(logits: torch.Tensor, normalizer: torch.Tensor, k: int) -> torch.Tensor:
    """Ids, then log-probabilities, of the k likeliest tokens: shape (positions, 2k).

    Log-probabilities are to the bit what ``statistics``, whose normalizer it takes, says of the same tokens.
    """
    values, ids = logits.topk(k, -1)
    return torch.cat([ids.float(), values.float() - normalizer[:, :1] - normalizer[:, 1:]], -1)


def expected_counts(logits: torch.Tensor, normalizer: torch.Tensor) -> torch.Tensor:
    """Sum each token's probability over positions: shape (vocabulary,), in float32.

    It is the number of times that the token is expected if a next token is drawn at each position. ``normalizer`` is
    from ``statistics``. Sums over few positions are added up, which keeps both memory and rounding errors small.
    """
    total = torch.zeros(logits.shape[-1], dtype=torch.float32, device=logits.device)
    for part, of_part in zip(logits.split(SUMMED_AT_ONCE), normalizer.split(SUMMED_AT_ONCE), strict=True):
        total += (part.float() - of_part[:, :1] - of_part[:, 1:]).exp().sum(0)
    return total


def _distribution(logits: torch.Tensor, target: torch.Tensor) -> _Distribution:
    logits = logits.float()
    maximum = logits.amax(-1, keepdim=True)
    # Logits of 16 bits often tie for the first place. (argmax itself takes a compiled CPU longer than all the rest.)
    vocabulary = logits.shape[-1]
    ids = torch.arange(vocabulary, dtype=torch.int32, device=logits.device)
    first = torch.where(logits == maximum, ids, vocabulary).amin(-1, keepdim=True)
    argmax = torch.where(logits.gather(-1, target) == maximum, target, first)
    shifted = logits - maximum
    total = shifted.exp().sum(-1, keepdim=True)
    log_total = total.log()
    probabilities = (shifted - log_total).exp()
    return _Distribution(
        shifted,
        probabilities,
        normalizer=torch.cat([maximum, log_total], -1),
        logprob=shifted.gather(-1, target) - log_total,
        entropy=log_total - (probabilities * shifted).sum(-1, keepdim=True),
        confidence=total.reciprocal(),
        argmax=argmax.float(),
    )


def _log_half(shrink: torch.Tensor) -> torch.Tensor:
    """log((1 + exp(-x)) / 2) from exp(-x) - 1, for x not below 0, within 1e-7 of itself.

    2 atanh(w), w = (exp(-x) - 1) / (exp(-x) + 3), which is between -1/3 and 0, by its series; log1p is slower.
    """
    w = shrink / (shrink + 4)
    square = w * w
    series = torch.zeros_like(w)
    for power in range(15, 0, -2):
        series = series * square + 1 / power
    return 2 * w * series


def _total(x: torch.Tensor) -> torch.Tensor:
    """Sum of a divergence's summands, of which rounding may make a few as good as zero negative."""
    return x.sum(-1, keepdim=True).clamp(min=0)
