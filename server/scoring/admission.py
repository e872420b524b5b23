"""Admission of requests, bounded in requests, sequences and tokens, so that admitted requests are served in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from server.errors import InvalidRequest, Overloaded
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.quotas import Quotas
from server.scoring.rate import Rate

CLIENT_SHARE = 0.75


@dataclass(frozen=True)
class Limits:
    """What may be in flight: requests, sequences, and as many tokens as are scored in ``queue_seconds``."""

    requests: int
    sequences: int
    queue_seconds: float

    def of_one_client(self) -> "Limits":
        """Return what one client may have in flight."""
        return Limits(max(1, int(CLIENT_SHARE * self.requests)), self.sequences, CLIENT_SHARE * self.queue_seconds)


CHARACTERS_PER_TOKEN = 3
"""A guess before tokenization, a little low for English; the rate is measured in the same guesses."""


def about(text: str | list[int]) -> int:
    """Estimate the number of tokens of a text."""
    return len(text) if isinstance(text, list) else len(text) // CHARACTERS_PER_TOKEN + 1


@dataclass(frozen=True)
class Cost:
    """What a request asks for, known before it is tokenized: sequences, and about how many tokens.

    Besides these it asks for ``answers`` that are generated, which may take as long as scoring ``generating`` tokens.
    """

    sequences: int
    tokens: int
    answers: int = 0
    generating: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both."""
        return Cost(
            self.sequences + other.sequences,
            self.tokens + other.tokens,
            self.answers + other.answers,
            self.generating + other.generating,
        )

    @property
    def all_sequences(self) -> int:
        """Sequences and answers."""
        return self.sequences + self.answers

    @property
    def all_tokens(self) -> int:
        """Tokens to score, and those that answers are worth."""
        return self.tokens + self.generating


NOTHING = Cost(sequences=0, tokens=0)
ANSWER_TOKENS = 256
"""Most tokens of an answer that room is held for: few answers are as long as they may be."""


def of_answers(number: int, max_tokens: int, token_cost: int) -> Cost:
    """Estimate the cost of answers, of which a token takes as long as scoring ``token_cost`` tokens."""
    return Cost(0, 0, number, number * min(max_tokens, ANSWER_TOKENS) * token_cost) if max_tokens else NOTHING


class Room:
    """What is left to do of one request."""

    def __init__(self, admission: "Admission", client: str, cost: Cost) -> None:
        self._admission = admission
        self._client = client
        self.left = cost

    def scored(self) -> None:
        """Note that one more sequence is scored; a prompt that is scored beside continuations is in none's guess."""
        if self.left.sequences:
            tokens = self.left.tokens // self.left.sequences
            self.left = replace(self.left, sequences=self.left.sequences - 1, tokens=self.left.tokens - tokens)
            self._admission.scored(self._client, tokens)

    def generated(self, tokens: int) -> None:
        """Note that an answer has grown by what takes as long as scoring so many tokens."""
        held = min(tokens, self.left.generating)
        self.left = replace(self.left, generating=self.left.generating - held)
        self._admission.generated(self._client, held, tokens)


class Admission:
    """Holds room for requests while they are served.

    One client gets ``CLIENT_SHARE`` of each limit at most, so that there is room for others.
    """

    def __init__(
        self, limits: Limits, metrics: ServiceMetrics, quotas: Quotas, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._quotas = quotas
        self._metrics = metrics
        self._rate = Rate(clock)
        self._all = _Held()
        self._clients: dict[str, _Held] = {}
        metrics.sequences_limit.set(limits.sequences)

    @contextmanager
    def room(self, client: str, cost: Cost) -> Iterator["Room"]:
        """Hold room for a request, which shrinks as its sequences are scored.

        Raises Overloaded or QuotaExceeded, with the time after which to try again.

        Raises InvalidRequest for a request that would not fit into an idle server.
        """
        if cost.all_sequences > self._limits.sequences:
            raise InvalidRequest(
                f"the request has {cost.all_sequences} sequences, expected at most {self._limits.sequences} at once"
            )
        self.check(client, cost)
        self._quotas.request(client)
        room = Room(self, client, cost)
        self._add(client, 1, cost.all_sequences, cost.all_tokens)
        self._rate.working()
        finished = False
        try:
            yield room
            finished = True
        finally:
            self._add(client, -1, -room.left.all_sequences, -room.left.all_tokens)
            self._rate.done(room.left.tokens if finished else 0, idle=not self._all.requests)

    def scored(self, client: str, tokens: int) -> None:
        """Give back the room of one sequence, of which the request had guessed that many tokens."""
        self._add(client, 0, -1, -tokens)
        self._rate.done(tokens, idle=False)

    def generated(self, client: str, held: int, tokens: int) -> None:
        """Give back the room that was held for a part of an answer, which took as long as scoring so many tokens."""
        self._add(client, 0, 0, -held)
        self._rate.done(tokens, idle=False)

    def check(self, client: str, cost: Cost = NOTHING) -> None:
        """Raise Overloaded if there is no room, without a cost even for the smallest request; or QuotaExceeded."""
        self._quotas.check(client)
        self._check("the server", self._all, self._limits, cost)
        if (held := self._clients.get(client)) is not None:
            self._check("this client", held, self._limits.of_one_client(), cost)

    def _check(self, whose: str, held: "_Held", limits: Limits, cost: Cost) -> None:
        if not held.requests:
            return
        if held.requests >= limits.requests:
            raise Overloaded(
                f"{held.requests} requests of {whose} are in flight, the most that are taken",
                retry_after=self._seconds(held.tokens / held.requests),
            )
        if (excess := held.sequences + cost.all_sequences - limits.sequences) > 0:
            raise Overloaded(
                f"{held.sequences} sequences of {whose} are in flight, and {cost.all_sequences} more would exceed "
                f"{limits.sequences}",
                retry_after=self._seconds(held.tokens * min(1.0, excess / held.sequences)),
            )
        if (rate := self._rate.per_second) is None:
            return
        if (excess_tokens := held.tokens + cost.all_tokens - limits.queue_seconds * rate) > 0:
            raise Overloaded(
                f"about {held.tokens} tokens of {whose} are in flight, {held.tokens / rate:.0f} s of work at the "
                "present rate",
                retry_after=self._seconds(min(excess_tokens, held.tokens)),
            )

    def _seconds(self, tokens: float) -> int:
        """Return the seconds in which that many tokens are scored, at least one, as Retry-After has no fractions."""
        rate = self._rate.per_second
        return max(1, math.ceil(tokens / rate)) if rate else 1

    def _add(self, client: str, requests: int, sequences: int, tokens: int) -> None:
        its = self._clients.setdefault(client, _Held())
        for held in (self._all, its):
            held.requests += requests
            held.sequences += sequences
            held.tokens += tokens
        if not its.requests:
            del self._clients[client]
        self._metrics.requests_in_flight.set(self._all.requests)
        self._metrics.sequences_in_flight.set(self._all.sequences)


@dataclass
class _Held:
    """What is in flight."""

    requests: int = 0
    sequences: int = 0
    tokens: int = 0
