"""OpenAI's chat completions: one of the models answers a chat."""

import time
import uuid
from threading import Event
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Request as HttpRequest
from pydantic import Field, model_validator

from qconf.wire import MAX_TOKENS, MAX_TOP_LOGPROBS, Chat, Reply, invalid
from server.api.answering import Answering, Columns, TokenCounts
from server.api.body import BodyRoute
from server.api.errors import ERRORS
from server.api.streaming import Send, streamed
from server.api.work import ServingDependency, answered
from server.engine.twin.rows import Rows
from server.scoring.admission import Cost, about, of_answers
from server.scoring.generation import Answer, Emit, Place
from server.scoring.service import Service
from server.scoring.tokenization import PairTokenizer
from server.scoring.turns import Origin

router = APIRouter(route_class=BodyRoute)
Length = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class ChatRequest(Chat, Answering):
    """A chat for one model to answer."""

    max_completion_tokens: Length | None = Field(
        default=None, description="Most tokens to generate. Default: as many as the context has room for."
    )
    max_tokens: Length | None = Field(default=None, description="The older name of 'max_completion_tokens'.")
    logprobs: bool = Field(default=False, description="Whether each token's log-probability is returned.")
    top_logprobs: int = Field(
        default=0, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens to return. Needs 'logprobs'."
    )

    @model_validator(mode="after")
    def _check(self) -> "ChatRequest":
        if self.messages is None:
            raise invalid("messages", "'messages' is missing, expected at least one message")
        if self.top_logprobs and not self.logprobs:
            raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs'")
        if self.max_tokens and self.max_completion_tokens:
            raise invalid("max_tokens", "expected at most one of 'max_tokens' and 'max_completion_tokens'")
        return self

    @property
    def most(self) -> int | None:
        """Most tokens to generate, None for as many as there is room for."""
        return self.max_completion_tokens or self.max_tokens


class TokenLogprob(Reply):
    """A token and its log-probability. ``bytes`` are those of its text on its own."""

    token: str
    logprob: float
    bytes: list[int]


class AnswerLogprob(TokenLogprob):
    """A token of the answer, and the likeliest ones of its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(Reply):
    """One entry per token."""

    content: list[AnswerLogprob]


class AnswerMessage(Reply):
    """The answer; in a stream, what it grows by."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(Reply):
    """The one answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Reply):
    """Reply of ``/v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenCounts


class ChatDelta(Reply):
    """What the one answer grows by."""

    index: Literal[0] = 0
    delta: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Reply):
    """Event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatDelta]
    usage: TokenCounts | None = None


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=ERRORS)
async def chat_completions(body: ChatRequest, request: HttpRequest, serving: ServingDependency) -> Response:
    """OpenAI's chat completions: what one of the models answers."""
    service = serving.service
    most = body.most or service.engine.info.max_model_len
    asked = sum(about(message.content) for message in body.messages or [])
    cost = Cost(sequences=0, tokens=asked) + of_answers(1, most, service.cheapest)
    if body.stream:
        return await streamed(request, serving, cost, lambda origin, send: _stream(service, body, origin, send))
    reply = await answered(request, serving, cost, lambda origin: _complete(service, body, origin))
    return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")


async def _complete(service: Service, request: ChatRequest, origin: Origin) -> ChatCompletion:
    """Answer the chat. Cancelling aborts the work."""
    prompt, answer = await _answer(service, request, origin)
    columns = Columns(service.model(request.model, "model"))
    logprobs = None
    if request.logprobs:
        rows = answer.rows(columns.variant)
        logprobs = await service.replied(
            lambda tokenizer: _logprobs(tokenizer, columns, request.top_logprobs, answer.token_ids, rows)
        )
    choice = ChatChoice(
        message=AnswerMessage(role="assistant", content=answer.text),
        logprobs=logprobs,
        finish_reason=answer.finish_reason,
    )
    return ChatCompletion(
        id=_new_id(),
        created=int(time.time()),
        model=request.model,
        choices=[choice],
        usage=TokenCounts.of([prompt], [answer]),
    )


async def _stream(service: Service, request: ChatRequest, origin: Origin, send: Send) -> None:
    """Send each token as it is drawn."""
    columns, tokenizer = Columns(service.model(request.model, "model")), service.answer_tokenizer
    chunk = ChatChunk(id=_new_id(), created=int(time.time()), model=request.model, choices=[])

    def push(delta: ChatDelta) -> None:
        send(chunk.model_copy(update={"choices": [delta]}).model_dump_json(exclude_none=True))

    def emit(_: tuple[int, ...], index: int, place: Place, text: str) -> None:
        logprobs = None
        if request.logprobs:
            rows = place.rows[columns.variant]
            logprobs = _logprobs(tokenizer, columns, request.top_logprobs, [place.token_id], rows)
        role: Literal["assistant"] | None = None if index else "assistant"
        push(ChatDelta(delta=AnswerMessage(role=role, content=text), logprobs=logprobs))

    prompt, answer = await _answer(service, request, origin, emit)
    push(ChatDelta(delta=AnswerMessage(), finish_reason=answer.finish_reason))
    if request.counts_are_sent:
        send(chunk.model_copy(update={"usage": TokenCounts.of([prompt], [answer])}).model_dump_json(exclude_none=True))


async def _answer(
    service: Service, request: ChatRequest, origin: Origin, emit: Emit = lambda *_: None
) -> tuple[list[int], Answer]:
    """Return the chat's tokens, and the answer."""
    model = service.model(request.model, "model")
    prompt = await service.tokenized(_encode, request, origin=origin)
    room = service.engine.info.max_model_len - len(prompt)
    drawing = request.drawing(model, request.most or room, request.top_logprobs)
    return prompt, (await service.answers(prompt, drawing, origin, emit))[model]


def _encode(tokenizer: PairTokenizer, request: ChatRequest, cancelled: Event) -> list[int]:
    # The template writes all special tokens itself.
    ids = tokenizer.ids(tokenizer.render(request), "messages", False)
    tokenizer.check_length(len(ids), "messages", request.most or 1)
    return ids


def _logprobs(tokenizer: PairTokenizer, columns: Columns, k: int, token_ids: list[int], rows: Rows) -> ChatLogprobs:
    def token(token_id: int, logprob: float) -> dict[str, object]:
        text = tokenizer.texts([token_id])[0]
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return ChatLogprobs(
        content=[
            AnswerLogprob.model_validate(
                token(token_id, logprob) | {"top_logprobs": [token(*likely) for likely in likeliest]}
            )
            for token_id, logprob, likeliest in zip(
                token_ids, columns.logprobs(rows), columns.top(rows, k), strict=True
            )
        ]
    )


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"
