"""One comparison from request to reply: admission, tokenization, scoring, reply."""

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from server import __version__
from server.checkpoint import Checkpoint, Pair
from server.comparison import choice, continuations, summary, token_comparison
from server.digest import model_digest
from server.engine import RETRY_AFTER, TwinEngine
from server.errors import Overloaded, Unavailable
from server.schema import Both, CompareRequest, Comparison, ModelInfo, ModelList, ServerInfo, Timing, Usage
from server.tokenization import PairTokenizer, Sequences
from server.twin.rows import Rows

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all, in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


class Service:
    """Answers comparisons with one engine."""

    def __init__(self, engine: TwinEngine, pair: Pair, max_sequences: int) -> None:
        info = engine.info
        self.engine = engine
        self._tokenizer = PairTokenizer(pair.tokenizer, info.vocab_size, info.max_model_len)
        # Off the event loop, and on one thread: tokenizers are not safe to share between threads.
        self._tokenizer_thread = ThreadPoolExecutor(1, "tokenizer")
        self._max_sequences = max_sequences
        self._sequences = 0
        created = int(time.time())
        base = self._model_info("base", pair.base, created)
        quantized = self._model_info("quantized", pair.quantized, created)
        self._models = Both[ModelInfo](base=base, quantized=quantized)
        self.models = ModelList(
            data=[base, quantized],
            server=ServerInfo(version=__version__, vllm=info.vllm_version, device=info.device),
        )

    def _model_info(self, role: str, checkpoint: Checkpoint, created: int) -> ModelInfo:
        return ModelInfo.model_validate(
            {
                "id": role,
                "created": created,
                "root": checkpoint.name,
                "revision": checkpoint.commit,
                "digest": model_digest(checkpoint),
                "architecture": checkpoint.architectures[0],
                "dtype": self.engine.info.dtype,
                "quantization": checkpoint.quantization,
                "max_model_len": self.engine.info.max_model_len,
            }
        )

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
        try:
            yield
        finally:
            self._sequences -= sequences

    async def with_tokenizer(self, function: Callable[[PairTokenizer], T]) -> T:
        """Run a function of the tokenizer on the tokenizer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer_thread, function, self._tokenizer)

    async def compare(self, request: CompareRequest) -> Comparison:
        """Score what the request asks for under both models. Cancelling aborts the work."""
        started = time.perf_counter()
        sequences = await self.with_tokenizer(lambda tokenizer: tokenizer.sequences(request))
        tokenized = time.perf_counter()
        prompt, candidates = await self._score(sequences, request)
        scored = time.perf_counter()
        reply = await self.with_tokenizer(
            lambda tokenizer: self._reply(request, sequences, prompt, candidates, tokenizer)
        )
        reply.timing = Timing(
            tokenize_ms=1e3 * (tokenized - started),
            engine_ms=1e3 * (scored - tokenized),
            total_ms=1e3 * (time.perf_counter() - started),
        )
        return reply

    async def _score(self, sequences: Sequences, request: CompareRequest) -> tuple[Rows | None, list[Rows]]:
        """Rows of the prompt, where they are asked for, and of each continuation's tokens."""
        context, top = sequences.context, request.top_logprobs
        prompt = None
        if not sequences.continuations or (request.detail == "tokens" and request.score_prompt):
            # First, because it fills the prefix cache for the continuations.
            prompt = await self.engine.score(context, top=top)
        return prompt, await together(
            self.engine.score(context + continuation.token_ids, len(context) - 1, top)
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
        overall = summary(candidates or scored)
        return Comparison(
            id=f"cmp-{uuid.uuid4().hex}",
            created=int(time.time()),
            models=self._models,
            prompt=token_comparison(sequences.context, prompt, tokenizer.texts, top)
            if prompt is not None and tokens
            else None,
            continuations=entries or None,
            choice=choice(entries, request.label) if len(entries) > 1 else None,
            summary=overall,
            usage=Usage(
                prompt_tokens=len(sequences.context),
                continuation_tokens=sum(len(c.token_ids) for c in sequences.continuations),
                scored_tokens=overall.tokens,
                computed_tokens=sum(rows.computed_tokens for rows in [*candidates, *scored]),
            ),
            timing=Timing(tokenize_ms=0, engine_ms=0, total_ms=0),
        )
