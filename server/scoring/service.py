"""One comparison from request to reply: admission, tokenization, scoring, reply."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from qconf import __version__
from qconf.wire import (
    Both,
    CompareRequest,
    Comparison,
    ModelInfo,
    ModelList,
    ServerInfo,
    Timing,
    Usage,
)
from server.engine.digest import model_digest
from server.engine.engine import RETRY_AFTER, EngineInfo, TwinEngine
from server.engine.pair import Pair
from server.engine.twin.rows import Rows
from server.errors import Overloaded, Unavailable
from server.monitoring.monitor import Monitor
from server.monitoring.observation import Item, Observation
from server.scoring.reply import MODELS, choice, continuations, joined, summary, token_comparison
from server.scoring.tokenization import PairTokenizer, Sequences

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all, in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def model_list(pair: Pair, info: EngineInfo) -> ModelList:
    """The two models, base first, and what serves them. Reads all weights, for their digests."""
    created = int(time.time())
    return ModelList(
        data=[
            ModelInfo(
                id=role,
                created=created,
                root=checkpoint.name,
                revision=checkpoint.commit,
                digest=model_digest(checkpoint),
                architecture=checkpoint.architectures[0],
                dtype=info.dtype,
                quantization=checkpoint.quantization,
                max_model_len=info.max_model_len,
            )
            for role, checkpoint in zip(MODELS, (pair.base, pair.quantized), strict=True)
        ],
        server=ServerInfo(version=__version__, vllm=info.vllm_version, device=info.device),
    )


class Stopwatch:
    """Times the parts of one request."""

    def __init__(self) -> None:
        self._started = self._tokenized = self._scored = time.perf_counter()
        self._queued = 0.0

    def tokenized(self) -> None:
        """Tokenization is done."""
        self._tokenized = time.perf_counter()

    def scored(self, first: Sequence[Rows]) -> None:
        """The engine is done; it began with these rows, all handed over at once."""
        self._scored = time.perf_counter()
        self._queued = min((rows.queue_seconds for rows in first), default=0.0)

    def timing(self) -> Timing:
        """The parts up to now."""
        return Timing(
            tokenize_ms=1e3 * (self._tokenized - self._started),
            queue_ms=1e3 * self._queued,
            engine_ms=1e3 * (self._scored - self._tokenized - self._queued),
            total_ms=1e3 * (time.perf_counter() - self._started),
        )


@dataclass(frozen=True)
class Answer:
    """A Comparison as JSON, which is made where it does not hold up the event loop."""

    json: bytes
    timing: Timing


class Service:
    """Answers comparisons with one engine; the monitor is told of each."""

    def __init__(self, engine: TwinEngine, pair: Pair, models: ModelList, max_sequences: int, monitor: Monitor) -> None:
        info = engine.info
        self.engine = engine
        self.models = models
        self._monitor = monitor
        self._metrics = monitor.metrics
        self._tokenizer = PairTokenizer(pair.tokenizer, info.vocab_size, info.max_model_len)
        # Off the event loop, and on one thread: tokenizers are not safe to share between threads.
        self._tokenizer_thread = ThreadPoolExecutor(1, "tokenizer")
        self._max_sequences = max_sequences
        self._sequences = 0
        self._models = Both[ModelInfo](base=models.data[0], quantized=models.data[1])
        self._metrics.sequences_limit.set(max_sequences)
        self._metrics.engine_up.set_function(lambda: float(self.is_ready))

    @property
    def is_ready(self) -> bool:
        """Whether comparisons can be answered."""
        return self.engine.is_alive

    def check_ready(self) -> None:
        """Raise Unavailable where comparisons cannot be answered."""
        if not self.is_ready:
            raise Unavailable("the engine has died", retry_after=RETRY_AFTER)

    @contextmanager
    def admitted(self, sequences: int) -> Iterator[None]:
        """Hold room for that many sequences, or refuse: work beyond the limit would only wait."""
        self.check_ready()
        if self._sequences and self._sequences + sequences > self._max_sequences:
            raise Overloaded(
                f"{self._sequences} sequences are in flight, and {sequences} more would exceed {self._max_sequences}",
                retry_after=1,
            )
        self._sequences += sequences
        self._metrics.sequences_in_flight.set(self._sequences)
        self._metrics.requests_in_flight.inc()
        try:
            yield
        finally:
            self._sequences -= sequences
            self._metrics.sequences_in_flight.set(self._sequences)
            self._metrics.requests_in_flight.dec()

    async def with_tokenizer(self, function: Callable[[PairTokenizer], T]) -> T:
        """Run a function of the tokenizer on the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, function, self._tokenizer)

    async def compare(self, request: CompareRequest) -> Answer:
        """Score what the request asks for under both models. Cancelling aborts the work."""
        watch = Stopwatch()
        sequences = await self.with_tokenizer(lambda tokenizer: tokenizer.sequences(request))
        watch.tokenized()
        prompt, candidates = await self._score_all(sequences, request)
        watch.scored(candidates if prompt is None else [prompt])

        def answer(tokenizer: PairTokenizer) -> Answer:
            reply = self._reply(request, sequences, prompt, candidates, tokenizer)
            reply.timing = watch.timing()
            return Answer(reply.model_dump_json().encode(), reply.timing)

        return await self.with_tokenizer(answer)

    async def score(self, token_ids: list[int], start: int = 0, top: int = 0) -> Rows:
        """The engine's score of a sequence, counted."""
        with self._metrics.in_engine(len(token_ids)):
            rows = await self.engine.score(token_ids, start, top)
        self._metrics.scored(rows)
        return rows

    async def _score_all(self, sequences: Sequences, request: CompareRequest) -> tuple[Rows | None, list[Rows]]:
        """Rows of the prompt, where they are asked for, and of each continuation's tokens."""
        context, top = sequences.context, request.top_logprobs
        prompt = None
        if not sequences.continuations or (request.detail == "tokens" and request.score_prompt):
            # First, because it fills the prefix cache for the continuations.
            prompt = await self.score(context, top=top)
        return prompt, await together(
            self.score(context + continuation.token_ids, len(context) - 1, top)
            for continuation in sequences.continuations
        )

    def _reply(
        self,
        request: CompareRequest,
        sequences: Sequences,
        prompt: Rows | None,
        candidates: list[Rows],
        tokenizer: PairTokenizer,
    ) -> Comparison:
        top, tokens = request.top_logprobs, request.detail == "tokens"
        entries = continuations(
            [(c.text, c.token_ids) for c in sequences.continuations], candidates, tokenizer.texts, top, tokens
        )
        scored = [prompt] if prompt is not None else []
        rows = joined(candidates or scored)
        overall = summary(rows)
        choices = choice(entries, request.label) if len(entries) > 1 else None
        self._monitor.observe(Observation(rows, None if choices is None else Item.of(entries, choices)))
        return Comparison(
            id=f"cmp-{uuid.uuid4().hex}",
            created=int(time.time()),
            models=self._models,
            prompt=token_comparison(sequences.context, prompt, tokenizer.texts, top)
            if prompt is not None and tokens
            else None,
            continuations=entries or None,
            choice=choices,
            summary=overall,
            usage=Usage(
                prompt_tokens=len(sequences.context),
                continuation_tokens=sum(len(c.token_ids) for c in sequences.continuations),
                scored_tokens=overall.tokens,
                computed_tokens=sum(part.computed_tokens for part in [*candidates, *scored]),
            ),
            timing=Timing(tokenize_ms=0, queue_ms=0, engine_ms=0, total_ms=0),
        )
