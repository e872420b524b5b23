"""One answered request under the base and one quantized variant: its tokens and what the engine computed for them.

Replies (``reply.py``, ``server/api/completions.py``) and observations (``server/monitoring/observation.py``) are
functions of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qconf.statistics.arrays import Floats
from qconf.wire import Role, Timing
from server.engine.twin.rows import WIDTH, Rows

MODELS: tuple[Role, Role] = ("base", "quantized")


@dataclass(frozen=True)
class ScoredContinuation:
    """A candidate: its text as the client gave it, its token ids, and the row that predicts each of them."""

    text: str
    token_ids: list[int]
    rows: Rows


@dataclass(frozen=True)
class Scored:
    """Token ids of the context, its rows where it was scored, the continuations, and how long scoring took.

    ``prompt`` has a row for each of the context's last tokens, for all but the first in a comparison.
    """

    context: list[int]
    prompt: Rows | None
    continuations: Sequence[ScoredContinuation]
    label: int | None
    timing: Timing

    @cached_property
    def rows(self) -> Rows:
        """Rows of all continuations, or of the prompt without any, in float64 so that sums lose nothing."""
        parts = [continuation.rows for continuation in self.continuations]
        values = [part.values[:, :WIDTH] for part in parts or ([self.prompt] if self.prompt else [])]
        return Rows(np.concatenate(values).astype(np.float64) if values else np.empty((0, WIDTH)))

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Index at which the rows of each continuation begin; no continuation is empty."""
        lengths = [len(continuation.token_ids) for continuation in self.continuations]
        return np.cumsum([0, *lengths[:-1]])

    @cached_property
    def logprobs(self) -> Floats:
        """Log-probability of each continuation under each model, shape (continuations, models)."""
        columns = [np.add.reduceat(self.rows[f"{model}_logprob"], self.starts) for model in MODELS]
        return np.stack(columns, axis=1)

    @cached_property
    def confidence(self) -> Floats:
        """Softmax of the log-probabilities over the continuations, shape (continuations, models)."""
        odds = np.exp(self.logprobs - self.logprobs.max(axis=0))
        return np.asarray(odds / odds.sum(axis=0))

    @cached_property
    def choices(self) -> npt.NDArray[np.int64]:
        """The continuation that each model finds likeliest, the first of equals, shape (models,)."""
        return np.asarray(self.logprobs.argmax(axis=0))

    @property
    def computed_tokens(self) -> int:
        """Tokens that ran through the models; the others came from the prefix cache."""
        parts = [self.prompt, *(continuation.rows for continuation in self.continuations)]
        return sum(part.computed_tokens for part in parts if part is not None)


class Observer(Protocol):
    """Is given every answered comparison. ``observe`` is called on the replies' thread and must be quick."""

    def observe(self, scored: Sequence[Scored]) -> None:
        """Process one comparison, scored under the base and each variant."""
