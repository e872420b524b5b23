"""Requests and replies as values: what is sent where, and which reply is expected. No connections here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from client.errors import BadReply, InvalidRequest
from client.routing import context_hash
from qconf.wire import (
    BatchReply,
    BatchRequest,
    CompareRequest,
    Comparison,
    DetokenizeReply,
    DetokenizeRequest,
    ErrorDetail,
    Message,
    ModelList,
    TokenizeReply,
    TokenizeRequest,
    TokenizerInfo,
    problem,
)

R = TypeVar("R", bound=BaseModel)
M = TypeVar("M", bound=BaseModel)


class CompareFields(TypedDict, total=False):
    """Fields of a ``CompareRequest`` as keyword arguments; ``qconf.wire`` says what each means."""

    prompt: str | list[int]
    messages: Sequence[Message | dict[str, str]]
    continuations: Sequence[str | list[int]]
    label: int | None
    top_logprobs: int
    detail: Literal["tokens", "summary"]
    score_prompt: bool
    add_special_tokens: bool
    expected_counts: bool
    add_generation_prompt: bool | None
    continue_final_message: bool
    max_tokens: int
    generate_from: str
    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str] | None
    ignore_eos: bool


class TokenizeFields(TypedDict, total=False):
    """Fields of a ``TokenizeRequest`` besides its prompt; ``qconf.wire`` says what each means."""

    messages: Sequence[Message | dict[str, str]] | None
    continuation: str | None
    add_special_tokens: bool
    add_generation_prompt: bool | None
    continue_final_message: bool


@dataclass(frozen=True)
class Call(Generic[R]):
    """One request, and the schema of its reply; ``context`` is the hash of a comparison's context."""

    method: Literal["GET", "POST"]
    path: str
    reply: type[R]
    body: bytes | None = None
    context: str | None = None

    def parse(self, response: httpx.Response) -> R:
        """Return the reply of a response that has succeeded."""
        try:
            return self.reply.model_validate_json(response.content)
        except ValidationError as exc:
            why = problem(exc.errors()).message
            raise BadReply(f"{response.request.url} sent a reply that is not a {self.reply.__name__}: {why}") from exc


class Anything(BaseModel):
    """Reply of a route of which only the status counts."""


def compare_call(fields: CompareFields, *, stream: bool = False) -> Call[Comparison]:
    """Build the call of a comparison. With ``stream``, its response is read by ``CompareEvents``."""
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    if stream:
        listed["stream"] = True
    request = _checked(CompareRequest, listed)
    return Call("POST", "/compare", Comparison, _dump(request), context_hash(request))


def batch_call(requests: Sequence[CompareRequest | Mapping[str, Any]]) -> Call[BatchReply]:
    """Build the call of a batch. Mappings are sent unchecked: the server answers a bad entry with its error."""
    entries = [r.model_dump(exclude_unset=True) if isinstance(r, CompareRequest) else dict(r) for r in requests]
    return Call("POST", "/compare/batch", BatchReply, _dump(_checked(BatchRequest, {"requests": entries})))


def batch_entries(reply: BatchReply, expected: int) -> list[Comparison | ErrorDetail]:
    if len(reply.results) != expected:
        raise BadReply(f"expected {expected} results to a batch of {expected}, got {len(reply.results)}")
    return [entry if isinstance(entry, Comparison) else entry.error for entry in reply.results]


def models_call() -> Call[ModelList]:
    return Call("GET", "/v1/models", ModelList)


def ready_call() -> Call[Anything]:
    return Call("GET", "/ready", Anything)


def tokenizer_info_call() -> Call[TokenizerInfo]:
    return Call("GET", "/tokenizer_info", TokenizerInfo)


def tokenize_call(prompt: str | list[int] | None, fields: TokenizeFields) -> Call[TokenizeReply]:
    given = ({} if prompt is None else {"prompt": prompt}) | fields
    return Call("POST", "/tokenize", TokenizeReply, _dump(_checked(TokenizeRequest, given)))


def detokenize_call(token_ids: Sequence[int]) -> Call[DetokenizeReply]:
    return Call("POST", "/detokenize", DetokenizeReply, _dump(_checked(DetokenizeRequest, {"tokens": list(token_ids)})))


def checked_url(base_url: str) -> str:
    """Return the base URL without a trailing slash. InvalidRequest if it is not a URL."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as exc:
        raise InvalidRequest(f"base_url: {exc}, got {base_url!r}", param="base_url") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidRequest(f"base_url: expected http://host:port or https://..., got {base_url!r}", param="base_url")
    return base_url.rstrip("/")


def _checked(model: type[M], fields: dict[str, Any]) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as exc:
        found = problem(exc.errors())
        raise InvalidRequest(found.message, type=found.type, param=found.param) from exc


def _dump(request: BaseModel) -> bytes:
    try:
        return request.model_dump_json(exclude_unset=True).encode()
    except PydanticSerializationError as exc:  # half a surrogate pair, or a type that JSON lacks
        raise InvalidRequest(f"the request cannot be written as JSON: {exc}") from exc
