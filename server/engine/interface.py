"""What the rest of the server needs of an engine; ``engine.py`` implements it on vLLM."""

from collections.abc import AsyncGenerator
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


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: up to ``max_tokens`` from each of ``models``, of which 0 is the base.

    A temperature of 0 takes the likeliest token. Else a token is drawn from the softmax of the logits divided by it,
    cut to the fewest tokens that together have the probability ``top_p``. A token of ``end_ids`` is the last.
    """

    models: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    end_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One more place of a sequence: the token that each model of ``Sampling.models`` draws there, and for each variant
    a row for each of these tokens."""

    token_ids: list[int]
    rows: list[Rows]


class Scorer(Protocol):
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


class Engine(Scorer, Protocol):
    """Scores token sequences, and generates what may follow them."""

    def generate(self, token_ids: list[int], sampling: Sampling, top: int = 0) -> AsyncGenerator[Step]:
        """Yield the places after a sequence, which goes on with what the first model of ``sampling`` draws.

        Every token is scored as ``score`` does it. Closing the generator aborts the work. Raises as ``score`` does.
        """
