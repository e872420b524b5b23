"""``python -m benchmarks.caching``: effects of the prefix cache and of batching on the numbers.

The same items are scored by a server without a prefix cache one at a time, by the same server all together, and by a
server whose cache holds the items' contexts. A cached prefix was computed in another batch: in 16 bits the order of a
matrix product's sums depends on how many tokens run together. Both models see the same batch, so a model compared with
itself still diverges by exactly 0. Arguments go to both servers (default: the demo pair).
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

from demo.local_server import running_server

ITEMS, CONTEXT, CHOICES, CHOICE_TOKENS = 50, 200, 4, 20
VOCABULARY = 400
"""Ids of the demo pair, which every larger model has too."""


def main() -> None:
    """Print the differences between the numbers."""
    arguments = sys.argv[1:] or ["--demo"]
    rng = np.random.default_rng(0)
    items = [
        {
            "prompt": rng.integers(2, VOCABULARY, CONTEXT).tolist(),
            "continuations": rng.integers(2, VOCABULARY, (CHOICES, CHOICE_TOKENS)).tolist(),
            "score_prompt": False,
        }
        for _ in range(ITEMS)
    ]
    with running_server(*arguments, "--no-enable-prefix-caching") as server:
        alone = score(server.url, items, 1)
        together = score(server.url, items, ITEMS)
    with running_server(*arguments) as server:
        score(server.url, items, 1)
        cached = score(server.url, items, 1)
    print(f"{'':24}{'log-probability':>28}{'KL':>28}\n{'':24}{'mean':>14}{'largest':>14}{'mean':>14}{'largest':>14}")
    for name, other in (("together", together), ("from the cache", cached)):
        apart = np.abs(other - alone).reshape(-1, 3)
        figures = (apart[:, :2].mean(), apart[:, :2].max(), apart[:, 2].mean(), apart[:, 2].max())
        print(f"alone, and {name:14}" + "".join(f"{value:14.2g}" for value in figures))
    print(f"(nats; the tokens' mean KL is {alone[..., 2].mean():.2g}; {alone[..., 2].size:,} tokens)")


def score(url: str, items: list[dict[str, Any]], at_once: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return both models' log-probabilities and KL, of shape (items, choices, tokens, 3)."""
    with httpx.Client(base_url=url, timeout=600) as client, ThreadPoolExecutor(at_once) as pool:
        replies = list(pool.map(lambda item: client.post("/compare", json=item).raise_for_status().json(), items))
    scores = [[each["scores"] for each in reply["continuations"]] for reply in replies]
    return np.array(
        [
            [list(zip(s["base"]["logprobs"], s["quantized"]["logprobs"], s["kl"], strict=True)) for s in item]
            for item in scores
        ]
    )


if __name__ == "__main__":
    main()
