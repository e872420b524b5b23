r"""Statistics of two distributions from their logits, in float32, without catastrophic cancellation.

With a, b the logits less their row maxima, log s = log sum(exp(a)), p = softmax of the base model, q of the
quantized one, and r = log q - log p:

* log-probability of token t: a[t] - log s. Subtracting the maximum first keeps both terms small where p[t] is near 1.
* entropy: log s - sum(p a); both terms are non-negative, so nothing cancels.
* KL(p || q) = sum((q - p) - p r). The sum of q - p is zero, so this is the definition, sum(-p r), with a control
  term that makes every summand non-negative and removes, to first order, the rounding error that log s brings into r.
  As a difference of two large sums the same number loses about 2e-5 nats, more than a good twin's KL.
* JS(p, q) = 1/2 sum(|r|/2 |q - p| - L (p + q)), with L = log cosh(r/2) and log((1 + e^r)/2) = r/2 + L.

|q - p| is max(p, q) (1 - exp(-|r|)), which never overflows and keeps its digits where p and q nearly agree. Equal
logits give r = 0 in every entry and so exactly 0 for all three divergences.
"""

import torch


def statistics(base: torch.Tensor, quantized: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Columns STATISTICS for logits of shape (positions, vocabulary) and the ids of the next tokens, (positions,)."""
    a, log_s_base, confidence_base, argmax_base = _shifted(base)
    b, log_s_quantized, confidence_quantized, argmax_quantized = _shifted(quantized)
    target = target[:, None]
    logprob_base = a.gather(-1, target) - log_s_base
    logprob_quantized = b.gather(-1, target) - log_s_quantized

    p, q = (a - log_s_base).exp_(), (b - log_s_quantized).exp_()
    entropy_base = log_s_base - _dot(p, a)
    entropy_quantized = log_s_quantized - _dot(q, b)

    r = b.sub_(a).sub_(log_s_quantized - log_s_base)
    magnitude = r.abs()
    shrink = torch.expm1(-magnitude)
    distance = torch.maximum(p, q).mul_(shrink).neg_()  # |q - p|
    difference = torch.copysign(distance, r)  # q - p
    kl = (difference - p * r).sum(-1, keepdim=True)
    reverse_kl = (q * r).sub_(difference).sum(-1, keepdim=True)
    log_cosh = shrink.mul_(0.5).log1p_().add_(magnitude, alpha=0.5)
    js = distance.mul_(magnitude).mul_(0.5).sub_(p.add_(q).mul_(log_cosh)).sum(-1, keepdim=True).mul_(0.5)
    return torch.cat(
        [
            logprob_base,
            logprob_quantized,
            kl,
            reverse_kl,
            js,
            entropy_base,
            entropy_quantized,
            confidence_base,
            confidence_quantized,
            argmax_base,
            argmax_quantized,
        ],
        -1,
    )


def likeliest(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Ids, then log-probabilities, of the k likeliest tokens: shape (positions, 2k)."""
    shifted, log_s, _, _ = _shifted(logits)
    values, ids = shifted.topk(k, -1)
    return torch.cat([ids.float(), values - log_s], -1)


def _shifted(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits less their maximum, log of their summed exponentials, largest probability and the token that has it."""
    logits = logits.float()
    maximum, argmax = logits.max(-1, keepdim=True)
    shifted = logits - maximum
    total = shifted.exp().sum(-1, keepdim=True)
    return shifted, total.log(), total.reciprocal(), argmax.float()


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(-1, keepdim=True)
