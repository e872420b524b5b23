"""OpenAI's legacy completions, for tools that speak them: one of the models scores prompts, nothing is sampled."""

import time
import uuid
from itertools import accumulate
from threading import Event
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field, Tag, model_validator

from qconf.wire import MAX_BATCH, MAX_TOP_LOGPROBS, Reply, Request, Text, Timing, TokenIds, invalid
from server.api.body import BodyRoute
from server.api.errors import ERRORS
from server.api.work import ServingDependency, answered
from server.engine.twin.rows import Rows
from server.errors import InvalidRequest
from server.monitoring.service_metrics import route_of
from server.scoring.admission import Cost, about
from server.scoring.scored import MODELS, Scored
from server.scoring.service import Service, Stopwatch, together
from server.scoring.tokenization import Cancelled, PairTokenizer
from server.scoring.turns import Origin

ONE = "One completion per prompt."
NOTHING_ELSE = "No other value: it would change the log-probabilities or the text."
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


class CompletionRequest(Request):
    """Prompts to score under one model; fields that would change nothing are accepted, those that would are not."""

    model: str = Field(description="'base', a quantized variant's name ('quantized': the first), or a real name.")
    prompt: Prompt = Field(description="Text, token ids, or a list of either.")
    max_tokens: int = Field(default=16, ge=0, description="Tokens to generate, greedily: 0 or 1.")
    echo: bool = Field(default=False, description="Whether the prompt comes back, with its log-probabilities.")
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens to return.")
    temperature: float | None = Field(default=None, description="0: what is generated is the likeliest token.")
    add_special_tokens: bool = Field(default=True, description="As in /compare; not OpenAI's.")
    seed: int | None = Field(default=None, description="Accepted and ignored: no sampling.")
    user: str | None = Field(default=None, description="Accepted and ignored.")
    n: Literal[1] = Field(default=1, description=ONE)
    best_of: Literal[1] | None = Field(default=None, description=ONE)
    stream: Literal[False] = Field(default=False, description="There is no streaming.")
    top_p: float | None = Field(default=None, description="Accepted and ignored: no sampling.")
    stop: None = Field(default=None, description=NOTHING_ELSE)
    suffix: None = Field(default=None, description=NOTHING_ELSE)
    logit_bias: None = Field(default=None, description=NOTHING_ELSE)
    presence_penalty: Literal[0] | None = Field(default=None, description=NOTHING_ELSE)
    frequency_penalty: Literal[0] | None = Field(default=None, description=NOTHING_ELSE)

    @model_validator(mode="after")
    def _check(self) -> "CompletionRequest":
        if self.max_tokens > 1:
            default = "" if "max_tokens" in self.model_fields_set else " (OpenAI's default)"
            raise invalid(
                "max_tokens", f"'max_tokens' is {self.max_tokens}{default}, expected 0 or 1: this server scores"
            )
        if not self.max_tokens and not self.echo:
            raise invalid("max_tokens", "'max_tokens' is 0 and 'echo' is false: nothing is asked for")
        if self.max_tokens and self.temperature:
            raise invalid("temperature", f"'temperature' is {self.temperature}, expected 0: nothing is sampled")
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
    """The result for one prompt."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["length"] = "length"


class CompletionUsage(Reply):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(Reply):
    """Reply of ``/v1/completions``. ``timing`` is ours, as in /compare."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
    timing: Timing


@router.post("/v1/completions", response_model=Completion, responses=ERRORS)
async def completions(body: CompletionRequest, request: HttpRequest, serving: ServingDependency) -> Response:
    """OpenAI's legacy completions: log-probabilities of prompts under one of the models, and one more token."""
    prompts = body.prompts()
    cost = Cost(len(prompts), sum(map(about, prompts)))
    reply = await answered(request, serving, cost, lambda origin: _complete(serving.service, body, origin))
    serving.monitor.metrics.timed(route_of(request.scope), reply.timing)
    return Response(reply.model_dump_json(), media_type="application/json")


async def _complete(service: Service, request: CompletionRequest, origin: Origin) -> Completion:
    """Score the prompts under the model that the request names. Cancelling aborts the work."""
    watch = Stopwatch()
    number = _model(service, request.model)
    token_ids = await service.tokenized(_encode, request, origin=origin)
    watch.tokenized()
    rows = await together(_score(service, ids, request, origin) for ids in token_ids)
    watch.scored(rows)
    timing = watch.timing()
    placeholder = _placeholder(request)
    # The base's columns stand beside each variant's.
    variant, role = max(0, number - 1), min(1, number)
    scored = [
        Scored(ids + placeholder, its[variant], [], None, timing) for ids, its in zip(token_ids, rows, strict=True)
    ]
    choices = await service.replied(
        lambda tokenizer: [_choice(tokenizer, request, role, index, each) for index, each in enumerate(scored)]
    )
    prompt_tokens, generated = sum(map(len, token_ids)), request.max_tokens * len(token_ids)
    return Completion(
        id=f"cmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        choices=choices,
        usage=CompletionUsage(
            prompt_tokens=prompt_tokens, completion_tokens=generated, total_tokens=prompt_tokens + generated
        ),
        timing=watch.timing(),
    )


def _model(service: Service, name: str) -> int:
    """Return the place of a model in the list of models: by name, by role, or by its root."""
    models = service.models.data
    names = {model.root: number for number, model in reversed(list(enumerate(models)))}
    names |= {role: number for number, role in enumerate(MODELS)}
    names |= {model.id: number for number, model in enumerate(models)}
    if name not in names:
        raise InvalidRequest(f"'model' is {name!r}, expected one of {', '.join(map(repr, sorted(names)))}", "model")
    return names[name]


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
        tokenizer.check_length(len(ids) + request.max_tokens, field)
        encoded.append(ids)
    return encoded


def _placeholder(request: CompletionRequest) -> list[int]:
    """Any one token: the engine scores tokens that are there, and with it what could stand in its place."""
    return [0] * request.max_tokens


async def _score(service: Service, token_ids: list[int], request: CompletionRequest, origin: Origin) -> list[Rows]:
    start = 0 if request.echo and request.logprobs is not None else len(token_ids) - 1
    top = max(request.logprobs or 0, request.max_tokens)
    return await service.score(token_ids + _placeholder(request), origin, start, top)


def _choice(
    tokenizer: PairTokenizer, request: CompletionRequest, role: int, index: int, scored: Scored
) -> CompletionChoice:
    rows = scored.prompt
    assert rows is not None
    prompt = scored.context[: len(scored.context) - request.max_tokens]
    top = rows.top(role)
    ids, logprobs = prompt, rows[f"{MODELS[role]}_logprob"].tolist()
    if request.max_tokens:
        ids = [*ids, int(top.ids[-1, 0])]
        logprobs[-1] = float(top.logprobs[-1, 0])
    if not request.echo:
        ids = ids[len(prompt) :]
    texts = tokenizer.texts(ids)
    columns = None
    if request.logprobs is not None:
        unscored = len(ids) - len(logprobs)
        alternatives = [
            _alternatives([*tokenizer.texts(others), text], [*values, logprob])
            for others, values, text, logprob in zip(
                top.ids[:, : request.logprobs].tolist(),
                top.logprobs[:, : request.logprobs].tolist(),
                texts[unscored:],
                logprobs,
                strict=True,
            )
        ]
        columns = CompletionLogprobs(
            tokens=texts,
            token_logprobs=[None] * unscored + logprobs,
            top_logprobs=[None] * unscored + alternatives,
            text_offset=list(accumulate(map(len, texts[:-1]), initial=0)),
        )
    return CompletionChoice(index=index, text=tokenizer.decode(ids) if ids else "", logprobs=columns)


def _alternatives(texts: list[str], logprobs: list[float]) -> dict[str, float]:
    """Log-probabilities by text; of tokens with the same text, such as parts of characters, the likeliest counts."""
    table: dict[str, float] = {}
    for text, logprob in zip(texts, logprobs, strict=True):
        table[text] = max(logprob, table.get(text, logprob))
    return table
