"""Logs of calls of OpenAI's form: what a server that takes mirrored calls would score of each call is an item.

The server tokenizes: texts and chats become windows of token ids only when they are sent.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, RootModel, Tag, model_validator

from client.api import AsyncClient
from client.bench.items import Item, LoadedTask, TaskError, Window
from client.bench.sources.corpus import token_item, window_item
from client.bench.sources.data import parsed_lines, read, version
from client.bench.sources.records import TokenIds, check_windows
from client.errors import InvalidRequest
from qconf.openai_calls import Call, NotScorable, ObserveRequest, Part, to_score
from qconf.run.calls import EMPTY
from qconf.wire import CompareRequest, ModelInfo, invalid


class BatchLine(BaseModel):
    """A line of the input of OpenAI's batches. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    body: Call

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "response" in fields:
            raise invalid(
                "response",
                "'response' of a batch's output stands without its call: expected lines of the batch's input, or "
                'lines {"request": BODY OF THE INPUT, "response": BODY OF THE OUTPUT}',
            )
        return fields


class _Tokens(BaseModel):
    tokens: int


class _Mirrored(BaseModel):
    part: Part
    variants: dict[str, _Tokens]


class RecordedCall(BaseModel):
    """A line of the server's ``--shadow-record``, which has token ids with ``--shadow-record-tokens`` only."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mirrored: _Mirrored
    prompt_token_ids: TokenIds | None = None
    token_ids: TokenIds | None = None

    @model_validator(mode="after")
    def _check(self) -> "RecordedCall":
        for name in ("prompt_token_ids", "token_ids"):
            if getattr(self, name) is None and not self.is_empty:
                raise invalid(name, f"{name!r} is missing: expected calls recorded with --shadow-record-tokens")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the call was scored: such calls have no ids."""
        return not any(scored.tokens for scored in self.mirrored.variants.values())


def _form(given: object) -> str | None:
    if not isinstance(given, dict):
        return None
    if "custom_id" in given:
        return "of a batch"
    if given.keys() & {"request", "response"}:
        return "with its answer"
    if given.keys() & {"mirrored", "prompt_token_ids", "token_ids"}:
        return "recorded"
    return "alone" if given.keys() & {"messages", "prompt"} else None


class Line(RootModel[Any]):
    """A call in one of the forms that are read, told apart by their fields."""

    root: Annotated[
        Annotated[Call, Tag("alone")]
        | Annotated[ObserveRequest, Tag("with its answer")]
        | Annotated[BatchLine, Tag("of a batch")]
        | Annotated[RecordedCall, Tag("recorded")],
        Discriminator(
            _form,
            custom_error_type="call",
            custom_error_message="expected a call with 'messages' or 'prompt', a 'request' with its 'response', a line "
            "of a batch with 'custom_id' and 'body', or a recorded call with 'prompt_token_ids' and 'token_ids'",
        ),
    ]


def load_requests(
    path: Path, base: ModelInfo, *, window: int | None = None, stride: int | None = None, limit: int | None = None
) -> LoadedTask:
    """Return a task named after the file, with an item per prompt of a call, and the number of calls of each kind.

    What is longer than a window, by default the models' context, is cut when it is sent.
    """
    check_windows(base, window, stride)
    content = read(path)
    calls: Counter[str] = Counter()
    items: list[Item] = []
    for _, _, line in parsed_lines(path, content, Line, limit):
        try:
            kind, found = _to_score(line.root)
        except NotScorable as exc:
            kind, found = exc.reason, []
        calls[kind] += 1
        for each in found:
            items.append(_item(path.stem, len(items), each))
    if not items:
        counts = ", ".join(f"{count} {kind}" for kind, count in calls.items())
        raise TaskError(f"{path} has no call that can be scored: {counts}")
    return LoadedTask(path.stem, version(content), 0, tuple(items), calls=dict(calls))


async def window_of(client: AsyncClient, request: CompareRequest, add_special_tokens: bool) -> Window:
    """Return the tokens of a call that are scored: those of the answer, or else of the prompt after its first."""
    answer = request.continuations[0] if request.continuations else None
    reply = await client.tokenize(
        request.prompt,
        messages=request.messages,
        continuation=answer if isinstance(answer, str) else None,
        add_special_tokens=add_special_tokens,
    )
    if reply.continuation is not None:
        return Window(reply.tokens, reply.continuation, 0)
    if reply.count < 2:
        raise InvalidRequest(f"the prompt has {reply.count} tokens, expected at least 2: the first is not scored")
    return Window(reply.tokens[:1], reply.tokens[1:], 0)


def _to_score(line: Call | ObserveRequest | BatchLine | RecordedCall) -> tuple[str, Sequence[Window | CompareRequest]]:
    """Return what is scored of a call and in which form it is there; NotScorable where it cannot be told."""
    if isinstance(line, RecordedCall):
        if line.prompt_token_ids and line.token_ids:
            return line.mirrored.part, [Window(line.prompt_token_ids, line.token_ids, 0)]
        return EMPTY, []
    if isinstance(line, ObserveRequest):
        found = to_score(line.request, line.response)
    else:
        found = to_score(line.body if isinstance(line, BatchLine) else line, None)
    return found.part, found.requests


def _item(task: str, index: int, given: Window | CompareRequest) -> Item:
    if isinstance(given, Window):
        return window_item(task, index, given, "record")
    answer = given.continuations[0] if given.continuations else None
    if isinstance(given.prompt, list) and isinstance(answer, list):
        return window_item(task, index, Window(given.prompt, answer, 0), "record")
    document = given.model_dump_json(include={"prompt", "messages", "continuations"})
    prompt = given.model_dump_json(include={"prompt", "messages"})
    return replace(token_item(task, index, "record", document, prompt), request=given)
