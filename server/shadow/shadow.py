"""Take mirrored calls, and score them when there is nothing else to do."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from qconf import error_types
from qconf.openai_calls import Call, CallReply, NotScorable, to_score
from server.errors import RequestError
from server.scoring.admission import about
from server.scoring.scored import Scored
from server.scoring.service import Service
from server.shadow.metrics import NOT_SAMPLED, QUEUE_FULL, QUEUED, STOPPED, ShadowMetrics
from server.shadow.queue import Entry, ShadowQueue
from server.shadow.sampling import SampledKeys

logger = logging.getLogger(__name__)


Observer = Callable[[Entry, Sequence[Scored]], None]
"""Is given every comparison of a mirrored call, under the base and each variant, on any thread and on several."""


class Shadow:
    """Mirrored calls, from their arrival to their scores. Nothing here raises to those who mirror."""

    def __init__(
        self,
        sampling: SampledKeys,
        most: int,
        service: Service,
        metrics: ShadowMetrics,
        observers: Sequence[Observer],
    ) -> None:
        self._sampling = sampling
        self._queue = ShadowQueue(most)
        self._service = service
        self._metrics = metrics
        self._observers = observers
        self._working: Counter[str] = Counter()

    def take(self, route: str, source: str, key: str | None, call: Call, answer: CallReply | None, size: int) -> str:
        """Queue a call of ``size`` bytes if its key is sampled; return at once what became of it."""
        outcome = self._outcome(route, source, key, call, answer, size)
        self._metrics.calls.labels(route, self._metrics.label_of(source), outcome).inc()
        return outcome

    def _outcome(
        self, route: str, source: str, key: str | None, call: Call, answer: CallReply | None, size: int
    ) -> str:
        if not self._sampling.takes(route, key or call.key):
            return NOT_SAMPLED
        try:
            scored = to_score(call, answer)
        except NotScorable as error:
            return error.reason
        if not self._queue.put(Entry(route, source, scored, size, time.monotonic())):
            return QUEUE_FULL
        self._metrics.waiting.set(len(self._queue))
        return QUEUED

    async def work(self) -> None:
        """Score calls one after another until cancelled; those that are left then are counted."""
        try:
            while True:
                batch = [await self._next()]
                tokens = _tokens(batch[0])
                # A request that comes meanwhile waits for the step in which the batch is computed.
                while len(self._queue) and tokens < self._service.background_tokens:
                    batch.append(await self._next())
                    tokens += _tokens(batch[-1])
                await asyncio.gather(*map(self._score, batch))
        finally:
            self._stop()

    async def _next(self) -> Entry:
        entry = await self._queue.get()
        self._working[self._metrics.label_of(entry.source)] += 1
        self._metrics.waiting.set(len(self._queue))
        return entry

    async def _score(self, entry: Entry) -> None:
        source = self._metrics.label_of(entry.source)
        try:
            for request in entry.to_score.requests:
                scored = await self._service.scored_in_background(request)
                await asyncio.to_thread(self._observe, entry, scored)
        except RequestError as error:
            self._metrics.failed.labels(source, error.type).inc()
        except Exception as error:
            logger.error("a mirrored call could not be scored", exc_info=error)
            self._metrics.failed.labels(source, error_types.INTERNAL).inc()
        else:
            self._metrics.scored.labels(source, entry.to_score.part).inc()
            self._metrics.wait.observe(time.monotonic() - entry.arrived)
        self._working[source] -= 1

    def _observe(self, entry: Entry, scored: Sequence[Scored]) -> None:
        for observe in self._observers:
            observe(entry, scored)

    def _stop(self) -> None:
        left = self._working + Counter(self._metrics.label_of(entry.source) for entry in self._queue)
        for source, calls in left.items():
            self._metrics.failed.labels(source, STOPPED).inc(calls)
        if left:
            logger.warning("%d mirrored calls were not scored before the end", left.total())


def _tokens(entry: Entry) -> int:
    """Estimate the tokens of a call."""
    total = 0
    for request in entry.to_score.requests:
        texts = [message.content for message in request.messages or []]
        prompt = request.prompt if request.prompt is not None else "".join(texts)
        total += about(prompt) + sum(map(about, request.continuations or []))
    return total
