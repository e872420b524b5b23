"""One comparison from request to reply: tokenization, scoring, reply."""

import asyncio
import contextlib
import copy
import itertools
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from threading import Event
from typing import Any, TypeVar

from opentelemetry import trace
from transformers import PreTrainedTokenizerBase

from qconf import __version__
from qconf.wire import CompareRequest, ModelList, Timing
from server.engine.interface import Engine, Sampling, Step
from server.engine.twin.rows import Rows
from server.errors import InvalidRequest, Unavailable
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.admission import Room
from server.scoring.generation import Answer, Drawing, Emit, generate
from server.scoring.quotas import Quotas
from server.scoring.reply import FORK_TOP, comparison
from server.scoring.scored import MODELS, Observer, Scored, ScoredContinuation
from server.scoring.stopwatch import Stopwatch
from server.scoring.together import together
from server.scoring.tokenization import PairTokenizer, Sequences
from server.scoring.turns import SHARED_SECONDS, Origin, Turns

T = TypeVar("T")
_tracer = trace.get_tracer("qconf.server", __version__)
RETRY_AFTER = 30
"""Seconds after which a client may try again where the engine has died, or the server is stopping."""
BACKGROUND = "in the background"
"""The client of work that no client waits for: no principal or address has spaces."""
STEPS_AHEAD = 2
"""Steps of work that the engine is given: one that it computes, and one so that it need not wait for the next."""
COUNTING_PER_STEP = 16
"""Most sequences of a step whose expected counts, as many numbers as the vocabulary has tokens, are in memory."""


class TokenizerThread:
    """A tokenizer and the one thread that uses it: off the event loop, and tokenizers are not thread-safe."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase, vocab_size: int, max_model_len: int) -> None:
        self._tokenizer = PairTokenizer(copy.deepcopy(tokenizer), vocab_size, max_model_len)
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(tokenizer, *arguments)``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, self._tokenizer, *arguments)


class Service:
    """Scores requests with one engine. ``observers`` are given every comparison."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        models: ModelList,
        metrics: ServiceMetrics,
        quotas: Quotas,
        observers: Sequence[Observer],
    ) -> None:
        info = engine.info
        self.engine = engine
        self.models = models
        self._metrics = metrics
        self._quotas = quotas
        self._observers = observers
        self._stopping = False
        self._numbers = itertools.count()

        def thread(name: str, longest: int = info.max_model_len) -> TokenizerThread:
            return TokenizerThread(name, tokenizer, info.vocab_size, longest)

        self._requests_thread = thread("requests")
        self._replies_thread = thread("replies")
        self.tools_thread = thread("tools", sys.maxsize)
        """For texts of any length, which no request to score has to wait for."""
        self._tokenizing = Turns(1)
        self._scoring = Turns(STEPS_AHEAD * info.step_tokens)
        self.begun_tokens = 2 * STEPS_AHEAD * info.step_tokens
        """Tokens of one batch that are begun: what the engine is given, and as much to be tokenized meanwhile."""
        self.cheapest = max(1, info.step_tokens // info.step_sequences)
        """Tokens that take as long as one sequence does however short it is, and as one token that is generated."""
        self.answer_tokenizer = PairTokenizer(copy.deepcopy(tokenizer), info.vocab_size, info.max_model_len)
        """For the event loop: a token of an answer is decoded faster than it is handed to a thread."""
        self._counting = max(self.cheapest, info.step_tokens // COUNTING_PER_STEP)
        metrics.engine_up.set_function(lambda: float(engine.is_alive))

    def check_ready(self) -> None:
        """Raise Unavailable where comparisons cannot be answered."""
        self.check_alive()
        if self._stopping:
            raise Unavailable("the server is stopping", retry_after=RETRY_AFTER)

    def check_alive(self) -> None:
        """Raise Unavailable where the engine has died."""
        if not self.engine.is_alive:
            raise Unavailable("the engine has died", retry_after=RETRY_AFTER)

    def stop_admitting(self) -> None:
        """Refuse requests from now on; those that were admitted are still answered."""
        self._stopping = True

    def origin(self, client: str, room: Room) -> Origin:
        """Number a new request of a client, which gives back its room as it is answered."""
        return Origin(client, next(self._numbers), room.scored, room.generated)

    async def compare(
        self, request: CompareRequest, origin: Origin, emit: Emit = lambda *_: None
    ) -> tuple[bytes, Timing]:
        """Score and generate what the request asks for under all models: a Comparison as JSON. Cancelling aborts it.

        ``emit`` is told of each token that is generated.
        """
        watch = Stopwatch()
        models = self.answering(request.generate_from) if request.max_tokens else ()
        sequences: Sequences = await self.tokenized(PairTokenizer.sequences, request, origin=origin)
        watch.tokenized()
        scored = await self._scored(request, sequences, origin, watch)
        drawing = Drawing(
            models=models,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stops=request.stop_texts,
            ignore_eos=request.ignore_eos,
            # Where answers part, both distributions are shown.
            top=max(request.top_logprobs, FORK_TOP if len(models) > 1 else 0),
        )
        answers = await self.answers(sequences.prompt, drawing, origin, emit) if models else {}

        def reply(tokenizer: PairTokenizer) -> bytes:
            for observer in self._observers:
                observer.observe(scored)
            top, tokens = request.top_logprobs, request.detail == "tokens"
            answer = comparison(
                scored,
                answers,
                drawing.drawn_seed,
                self.models.data,
                tokenizer.texts,
                top,
                watch.timing,
                tokens=tokens,
            )
            return answer.model_dump_json().encode()

        return await self.replied(reply), scored[0].timing

    @property
    def background_tokens(self) -> int:
        """Tokens to begin with at once in the background: a step, but little where clients were seen lately."""
        return self.engine.info.step_tokens if self._scoring.idle_seconds > SHARED_SECONDS else 1

    async def scored_in_background(self, request: CompareRequest) -> list[Scored]:
        """Score what nobody waits for, sequence by sequence while the engine has no other work. No observer sees it."""
        watch, origin = Stopwatch(), Origin(BACKGROUND, next(self._numbers), background=True)
        sequences: Sequences = await self.tokenized(PairTokenizer.sequences, request, origin=origin)
        watch.tokenized()
        return await self._scored(request, sequences, origin, watch)

    def answering(self, name: str) -> tuple[int, ...]:
        """Return the models that ``generate_from`` names: 0 is the base."""
        if name == "both":
            return tuple(range(len(self.models.data)))
        return (self.model(name, "generate_from", "both"),)

    def model(self, name: str, field: str, *others: str) -> int:
        """Return the place of a model in the list of models: by name, by role, or by its root.

        InvalidRequest names the field, and the names that it may have, ``others`` included.
        """
        models = self.models.data
        names = {model.root: number for number, model in reversed(list(enumerate(models)))}
        names |= {role: number for number, role in enumerate(MODELS)}
        names |= {model.id: number for number, model in enumerate(models)}
        if name not in names:
            known = ", ".join(map(repr, sorted([*names, *others])))
            raise InvalidRequest(f"{field!r} is {name!r}, expected one of {known}", field)
        return names[name]

    async def answers(
        self, prompt: list[int], drawing: Drawing, origin: Origin, emit: Emit = lambda *_: None
    ) -> dict[int, Answer]:
        """Return each model's answer to a prompt, by model."""
        end_ids = () if drawing.ignore_eos else self.engine.info.eos_token_ids

        def steps(token_ids: list[int], models: tuple[int, ...], most: int) -> AsyncGenerator[Step]:
            sampling = Sampling(models, most, drawing.temperature, drawing.top_p, drawing.drawn_seed or 0, end_ids)
            return self._steps(token_ids, sampling, drawing.top, origin)

        with _span("generate"):
            text = self.answer_tokenizer.answer(prompt, drawing.stops)
            return await generate(steps, drawing.models, prompt, text, drawing.max_tokens, end_ids, emit)

    async def _steps(self, token_ids: list[int], sampling: Sampling, top: int, origin: Origin) -> AsyncGenerator[Step]:
        """Generate when it is the sequence's turn, and count each token."""
        async with contextlib.aclosing(self.engine.generate(token_ids, sampling, top)) as steps:
            with self._metrics.in_engine(len(token_ids)):
                self._charge(origin, len(token_ids))
                # The first step computes the prompt, or what of it is not cached; each further one a single position.
                async with self._scoring.turn(origin, max(self.cheapest, len(token_ids))):
                    first = await anext(steps)
                yield self._generated(first, origin)
                async with self._scoring.turn(origin, self.cheapest):
                    async for step in steps:
                        yield self._generated(step, origin)

    def _generated(self, step: Step, origin: Origin) -> Step:
        self._charge(origin, 1)
        self._metrics.generated()
        origin.generated(self.cheapest)
        self._scoring.worked(self.cheapest)
        return step

    def _charge(self, origin: Origin, tokens: int) -> None:
        self._quotas.tokens(origin.client, tokens)
        if origin.client in self._quotas:
            self._metrics.principal_tokens.labels(origin.client).inc(tokens)

    async def _scored(
        self, request: CompareRequest, sequences: Sequences, origin: Origin, watch: Stopwatch
    ) -> list[Scored]:
        """Score the prompt, where it is asked for, and each continuation's tokens, under the base and each variant."""
        context, top = sequences.context, request.top_logprobs
        prompt = None
        if not sequences.continuations or (request.detail == "tokens" and request.score_prompt):
            # First, because it fills the prefix cache for the continuations.
            prompt = await self.score(context, origin, top=top)
        rows = await together(
            self.score(
                context + continuation.token_ids,
                origin,
                len(context) - 1,
                top,
                # Whatever comes first computes the context for all.
                cached=len(context) if i or prompt is not None else 0,
                counts=request.expected_counts,
            )
            for i, continuation in enumerate(sequences.continuations)
        )
        watch.scored(rows if prompt is None else [prompt])
        timing = watch.timing()
        return [
            Scored(
                context,
                None if prompt is None else prompt[variant],
                [
                    ScoredContinuation(each.text, each.token_ids, its[variant])
                    for each, its in zip(sequences.continuations, rows, strict=True)
                ],
                request.label,
                timing,
            )
            for variant in range(self.engine.info.variants)
        ]

    async def tokenized(self, function: Callable[..., T], *arguments: Any, origin: Origin) -> T:
        """Run a function on the requests' tokenizer; its last argument is set when nobody waits any more."""
        with _span("tokenize"):
            async with self._tokenizing.turn(origin, 1), _cancelled() as cancelled:
                return await self._requests_thread.run(function, *arguments, cancelled)

    async def replied(self, function: Callable[[PairTokenizer], T]) -> T:
        """Run a function on the replies' tokenizer."""
        with _span("reply"):
            return await self._replies_thread.run(function)

    async def score(
        self,
        token_ids: list[int],
        origin: Origin,
        start: int = 0,
        top: int = 0,
        *,
        cached: int = 0,
        counts: bool = False,
    ) -> list[Rows]:
        """Score a sequence when it is its turn, and count it: rows of each variant.

        ``cached`` tokens of it should be in the prefix cache. ``counts`` are those of ``Engine.score``.
        """
        tokens = len(token_ids) - cached
        self._charge(origin, tokens)
        with _span("score") as span:
            waited = time.perf_counter()
            least = self._counting if counts else self.cheapest
            async with self._scoring.turn(origin, max(least, tokens)):
                waited = time.perf_counter() - waited
                with self._metrics.in_engine(len(token_ids)):
                    rows = await self.engine.score(token_ids, start, top, counts=counts)
            rows = [each.waited(waited) for each in rows]
            first = rows[0]
            span.set_attributes(
                {
                    "qconf.queue_ms": 1e3 * first.queue_seconds,
                    "qconf.computed_tokens": first.computed_tokens,
                    "qconf.cached_tokens": first.cached_tokens,
                }
            )
        self._metrics.scored(first)
        origin.scored()
        return rows


def _span(name: str) -> AbstractContextManager[trace.Span]:
    # Errors are in the request's span, by type: their sentences may quote what was asked.
    return _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False)


@contextlib.asynccontextmanager
async def _cancelled() -> AsyncIterator[Event]:
    event = Event()
    try:
        yield event
    except asyncio.CancelledError:
        event.set()
        raise
