"""What the rest of the server needs of an engine; ``engine.py`` implements it on vLLM."""

from dataclasses import dataclass
from typing import Protocol

from server.engine.twin.rows import Rows


@dataclass(frozen=True)
class EngineInfo:
    """What runs: facts for clients and operators.

    A text ends with one of ``eos_token_ids``, as the base model's checkpoint has it. The engine computes at most
    ``step_tokens`` tokens of at most ``step_sequences`` sequences at once, under the base and ``variants`` quantized
    models.
    """

    vllm_version: str
    device: str
    dtype: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    step_tokens: int
    step_sequences: int
    variants: int = 1


class Engine(Protocol):
    """Scores token sequences under the base and its quantized variants."""

    @property
    def info(self) -> EngineInfo:
        """What runs."""

    @property
    def is_alive(self) -> bool:
        """Whether the engine's processes run and answer."""

    async def score(self, token_ids: list[int], start: int = 0, top: int = 0, *, counts: bool = False) -> list[Rows]:
        """Return for each variant one row for every token after position ``start``, with ``top`` likeliest tokens each.

        With ``counts``, they have each token's probability, summed over these positions.

        Cancelling the call aborts its work in the engine. Raises Unavailable when the engine is dead, NotFinite when
        a model's logits are not finite.
        """
