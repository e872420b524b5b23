"""OpenAI's legacy completions, for tools that speak them: one of the models scores prompts and goes on with them."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Event
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field, Tag, model_validator

from qconf.wire import MAX_BATCH, MAX_TOKENS, MAX_TOP_LOGPROBS, Reply, Text, Timing, TokenIds, invalid
from server.api.answering import NOTHING_ELSE, ONE, Answering, Columns, TokenCounts
from server.api.body import BodyRoute
from server.api.errors import ERRORS
from server.api.streaming import Send, streamed
from server.api.work import ServingDependency, answered
from server.engine.twin.rows import Rows
from server.errors import InvalidRequest
from server.monitoring.service_metrics import route_of
from server.scoring.admission import Cost, about, of_answers
from server.scoring.generation import Answer, Emit, Place
from server.scoring.service import Service
from server.scoring.stopwatch import Stopwatch
from server.scoring.together import together
from server.scoring.tokenization import Cancelled, PairTokenizer
from server.scoring.turns import Origin

router = APIRouter(route_class=BodyRoute)


def _kind(prompt: object) -> str:
    """Which form a prompt has, so that what is wrong within it is said of that form alone."""
    if not isinstance(prompt, list):
        return "a text"
    first = prompt[0] if prompt else 0
    return "several texts" if isinstance(first, str) else "several ids" if isinstance(first, list) else "token ids"


Several = Field(min_length=1, max_length=MAX_BATCH, fail_fast=True)
Prompt = Annotated[
    Annotated[Text, Tag("a text")]
    | Annotated[TokenIds, Tag("token ids")]
    | Annotated[list[Text], Several, Tag("several texts")]
    | Annotated[list[TokenIds], Several, Tag("several ids")],
    Discriminator(_kind),
]


class CompletionRequest(Answering):
    """Prompts to score under one model, and to go on with."""

    prompt: Prompt = Field(description="Text, token ids, or a list of either.")
    max_tokens: int = Field(default=16, ge=0, le=MAX_TOKENS, description="Most tokens to generate.")
    echo: bool = Field(default=False, description="Whether the prompt comes back, with its log-probabilities.")
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens to return.")
    add_special_tokens: bool = Field(default=True, description="As in /compare; not OpenAI's.")
    best_of: Literal[1] | None = Field(default=None, description=ONE)
    suffix: None = Field(default=None, description=NOTHING_ELSE)

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if not self.max_tokens and not self.echo:
            raise invalid("max_tokens", "'max_tokens' is 0 and 'echo' is false: nothing is asked for")
        if self.echo and self.stream:
            raise invalid("echo", "'echo' is true, expected false in a stream")
        return self

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts as a list, even a single one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [[token_id for token_id in self.prompt if isinstance(token_id, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class CompletionLogprobs(Reply):
    """One entry per token; the first of an echoed prompt has none, since nothing predicts it."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Reply):
    """The result for one prompt; in a stream, what it grows by."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Reply):
    """Reply of ``/v1/completions``, and event of its stream. ``timing`` is ours, as in /compare."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenCounts | None = None
    timing: Timing | None = None


@router.post("/v1/completions", response_model=Completion, responses=ERRORS)
async def completions(body: CompletionRequest, request: HttpRequest, serving: ServingDependency) -> Response:
    """OpenAI's legacy completions: log-probabilities of prompts under one of the models, and what it goes on with."""
    service, prompts = serving.service, body.prompts()
    cost = Cost(len(prompts) if _scores(body) else 0, sum(map(about, prompts)))
    cost += of_answers(len(prompts), body.max_tokens, service.cheapest)
    if body.stream:
        return await streamed(request, serving, cost, lambda origin, send: _stream(service, body, origin, send))
    reply, timing = await answered(request, serving, cost, lambda origin: _complete(service, body, origin))
    serving.monitor.metrics.timed(route_of(request.scope), timing)
    return Response(reply.model_dump_json(), media_type="application/json")


def _scores(request: CompletionRequest) -> bool:
    """Whether the prompts get log-probabilities, or nothing is generated."""
    return not request.max_tokens or (request.echo and request.logprobs is not None)


@dataclass(frozen=True)
class _Completed:
    """A prompt, its rows where it was scored, and the answer where one was asked for."""

    token_ids: list[int]
    rows: Rows | None
    answer: Answer | None


async def _complete(service: Service, request: CompletionRequest, origin: Origin) -> tuple[Completion, Timing]:
    """Score the prompts under the model that the request names, and go on with them. Cancelling aborts the work."""
    watch = Stopwatch()
    model = service.model(request.model, "model")
    columns = Columns(model)
    prompts = await service.tokenized(_encode, request, origin=origin)
    watch.tokenized()
    completed = await together(_completed(service, ids, request, model, origin) for ids in prompts)
    watch.scored([[each.rows] for each in completed if each.rows is not None])
    choices = await service.replied(
        lambda tokenizer: [_choice(tokenizer, request, columns, index, each) for index, each in enumerate(completed)]
    )
    timing = watch.timing()
    answers = [each.answer for each in completed if each.answer is not None]
    return _reply(request, choices, TokenCounts.of(prompts, answers), timing), timing


async def _completed(
    service: Service, token_ids: list[int], request: CompletionRequest, model: int, origin: Origin
) -> _Completed:
    rows = answer = None
    if _scores(request):
        start = 0 if request.logprobs is not None else len(token_ids) - 1
        rows = (await service.score(token_ids, origin, start, request.logprobs or 0))[Columns(model).variant]
    if request.max_tokens:
        answer = await _answer(service, token_ids, request, model, origin)
    return _Completed(token_ids, rows, answer)


async def _answer(
    service: Service,
    token_ids: list[int],
    request: CompletionRequest,
    model: int,
    origin: Origin,
    emit: Emit = lambda *_: None,
) -> Answer:
    drawing = request.drawing(model, request.max_tokens, request.logprobs or 0)
    return (await service.answers(token_ids, drawing, origin, emit))[model]


async def _stream(service: Service, request: CompletionRequest, origin: Origin, send: Send) -> None:
    """Send each token as it is drawn."""
    model = service.model(request.model, "model")
    columns, tokenizer = Columns(model), service.answer_tokenizer
    prompts = await service.tokenized(_encode, request, origin=origin)
    first = _reply(request, [])

    def push(choice: CompletionChoice) -> None:
        send(first.model_copy(update={"choices": [choice]}).model_dump_json(exclude={"timing", "usage"}))

    async def one(index: int, token_ids: list[int]) -> Answer:
        offset = 0

        def emit(_: tuple[int, ...], place_index: int, place: Place, text: str) -> None:
            nonlocal offset
            logprobs = None
            if request.logprobs is not None:
                logprobs = _logprobs(
                    tokenizer, columns, request.logprobs, [place.token_id], place.rows[columns.variant], offset
                )
            offset += len(text)
            push(CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=None))

        answer = await _answer(service, token_ids, request, model, origin, emit)
        push(CompletionChoice(index=index, text="", logprobs=None, finish_reason=answer.finish_reason))
        return answer

    answers = await together(one(index, token_ids) for index, token_ids in enumerate(prompts))
    if request.counts_are_sent:
        usage = TokenCounts.of(prompts, answers)
        send(first.model_copy(update={"usage": usage}).model_dump_json(exclude={"timing"}))


def _reply(
    request: CompletionRequest,
    choices: list[CompletionChoice],
    usage: TokenCounts | None = None,
    timing: Timing | None = None,
) -> Completion:
    return Completion(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        choices=choices,
        usage=usage,
        timing=timing,
    )


def _encode(tokenizer: PairTokenizer, request: CompletionRequest, cancelled: Event) -> list[list[int]]:
    encoded = []
    several = not isinstance(request.prompt, str) and not isinstance(request.prompt[0], int)
    for i, prompt in enumerate(request.prompts()):
        if cancelled.is_set():
            raise Cancelled
        field = f"prompt[{i}]" if several else "prompt"
        ids = tokenizer.ids(prompt, field, request.add_special_tokens)
        if not ids:
            raise InvalidRequest(f"{field!r} is empty: expected at least one token", field)
        tokenizer.check_length(len(ids), field, request.max_tokens)
        encoded.append(ids)
    return encoded


def _choice(
    tokenizer: PairTokenizer, request: CompletionRequest, columns: Columns, index: int, completed: _Completed
) -> CompletionChoice:
    answer = completed.answer
    ids = (completed.token_ids if request.echo else []) + (answer.token_ids if answer else [])
    logprobs = None
    if request.logprobs is not None:
        parts = [completed.rows] if completed.rows is not None else []
        parts += [answer.rows(columns.variant)] if answer else []
        rows = Rows(np.concatenate([part.values for part in parts]))
        logprobs = _logprobs(tokenizer, columns, request.logprobs, ids, rows)
    text = tokenizer.decode(completed.token_ids) if request.echo else ""
    return CompletionChoice(
        index=index,
        text=text + (answer.text if answer else ""),
        logprobs=logprobs,
        finish_reason=answer.finish_reason if answer else "length",
    )


def _logprobs(
    tokenizer: PairTokenizer, columns: Columns, k: int, ids: list[int], rows: Rows, offset: int = 0
) -> CompletionLogprobs:
    """Make the columns of tokens, of which the first may have no row."""
    texts, logprobs = tokenizer.texts(ids), columns.logprobs(rows)
    unscored = len(ids) - len(logprobs)
    alternatives = [
        _alternatives(tokenizer, [*top, (token_id, logprob)])
        for top, token_id, logprob in zip(columns.top(rows, k), ids[unscored:], logprobs, strict=True)
    ]
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[None] * unscored + logprobs,
        top_logprobs=[None] * unscored + alternatives,
        text_offset=list(accumulate(map(len, texts[:-1]), initial=offset)),
    )


def _alternatives(tokenizer: PairTokenizer, tokens: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Log-probabilities by text; of tokens with the same text, such as parts of characters, the likeliest counts."""
    table: dict[str, float] = {}
    for text, (_, logprob) in zip(tokenizer.texts([token_id for token_id, _ in tokens]), tokens, strict=True):
        table[text] = max(logprob, table.get(text, logprob))
    return table
