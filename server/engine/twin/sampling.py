"""Draws next tokens from logits, on the device: greedily, or with a temperature from the likeliest tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

SEED_STEP = 0x9E3779B97F4A7C15
"""An odd number near 2**64 divided by the golden ratio, which spreads neighboring positions over all seeds."""


class Draw(NamedTuple):
    """How one token is drawn: from which model's logits, and what is random about it.

    A temperature of 0 takes the likeliest token, the first of equals. The noise depends on the seed and the token's
    place in its sequence alone: the same request draws the same tokens whatever runs beside it, and two models
    that draw with the same seed draw the same token wherever their distributions allow.
    """

    model: int
    position: int
    temperature: float
    top_p: float
    seed: int


def drawn(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Draw one token from each row of logits (draws, vocabulary): ids of shape (draws,).

    The token is the one with the largest p / e, for independent exponentially distributed e: it is distributed as p.
    """
    ids = logits.argmax(-1)
    random = [i for i, draw in enumerate(draws) if draw.temperature > 0]
    if random:
        probabilities = torch.stack([_probabilities(logits[i], draws[i]) for i in random])
        noise = torch.stack([_noise(logits[i], draws[i]) for i in random])
        ids[random] = (probabilities / noise).argmax(-1)
    return ids


def _probabilities(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Softmax of one row at the draw's temperature, zero outside the fewest tokens that together have ``top_p``."""
    # Less the largest first: divided by a small temperature, logits would overflow.
    shifted = logits.float() - logits.float().amax()
    probabilities = (shifted / draw.temperature).softmax(-1)
    if draw.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probabilities = probabilities.index_fill(-1, order[before >= draw.top_p], 0.0)
    return probabilities


def _noise(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
    generator = torch.Generator(logits.device)
    generator.manual_seed((draw.seed + draw.position * SEED_STEP) % 2**63)
    noise = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    return noise.exponential_(generator=generator)
