r"""Statistics of two distributions from their logits, in float32, without catastrophic cancellation.

With a, b the logits less their row maxima, log s = log sum(exp(a)), p = softmax of the base model, q of the
quantized one, and r = log q - log p:

* log-probability of token t: a[t] - log s. Subtracting the maximum first keeps both terms small where p[t] is near 1.
* likeliest token: the next token itself where it is one of several with the largest logit.
* entropy: log s - sum(p a); both terms are non-negative, so nothing cancels.
* KL(p || q) = sum((q - p) - p r). The sum of q - p is zero, so this is the definition, sum(-p r), with a control
  term that makes every summand non-negative and removes, to first order, the rounding error that log s brings into r.
  As a difference of two large sums the same number loses about 2e-5 nats, more than a good twin's KL.
* JS(p, q) = -1/2 sum((p + q) log((1 + exp(-|r|))/2) + |r| min(p, q)). The usual form, with the mean of p and q in
  its logarithms, is this after the larger of the two is drawn out of each; the logarithm lies between -log 2 and 0.

|q - p| is max(p, q) (1 - exp(-|r|)), which never overflows and keeps its digits where p and q nearly agree. Equal
logits give r = 0 in every entry and so exactly 0 for all three divergences.
"""

import torch


def statistics(base: torch.Tensor, quantized: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Columns STATISTICS for logits of shape (positions, vocabulary) and the ids of the next tokens, (positions,)."""
    a, log_s_base, confidence_base, argmax_base = _shifted(base)
    b, log_s_quantized, confidence_quantized, argmax_quantized = _shifted(quantized)
    target = target[:, None]
    at_target_base, at_target_quantized = a.gather(-1, target), b.gather(-1, target)
    logprob_base, logprob_quantized = at_target_base - log_s_base, at_target_quantized - log_s_quantized
    # Logits of 16 bits often tie for the first place; a next token that shares it counts as the likeliest.
    argmax_base = torch.where(at_target_base == 0, target, argmax_base)
    argmax_quantized = torch.where(at_target_quantized == 0, target, argmax_quantized)

    p, q = (a - log_s_base).exp_(), (b - log_s_quantized).exp_()
    entropy_base = log_s_base - _dot(p, a)
    entropy_quantized = log_s_quantized - _dot(q, b)

    r = b.sub_(a).sub_(log_s_quantized - log_s_base)
    magnitude = r.abs()
    shrink = torch.expm1(-magnitude)
    difference = torch.copysign(torch.maximum(p, q).mul_(shrink), r)  # q - p
    kl = _total(difference - p * r)
    reverse_kl = _total((q * r).sub_(difference))
    common = torch.minimum(p, q).mul_(magnitude)
    js = _total(p.add_(q).mul_(shrink.mul_(0.5).log1p_()).add_(common).mul_(-0.5))
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
            argmax_base.float(),
            argmax_quantized.float(),
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
    return shifted, total.log(), total.reciprocal(), argmax


def _dot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * y).sum(-1, keepdim=True)


def _total(x: torch.Tensor) -> torch.Tensor:
    """Sum of a divergence's summands, of which rounding may make a few as good as zero negative."""
    return x.sum(-1, keepdim=True).clamp_(min=0)
