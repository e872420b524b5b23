"""Logs of calls of OpenAI's form: what a server that takes mirrored calls would score of each call is an item.

Texts and chats are tokenized by the server, all before the replay, so that calls that it refuses can be left out.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, RootModel, Tag, model_validator

from client.bench.items import LoadedTask, TaskError, Window
from client.bench.replay import together
from client.bench.servers import Servers
from client.bench.sources.corpus import window_item
from client.bench.sources.data import parsed_lines, read, version
from client.bench.sources.records import TokenIds, check_windows
from client.errors import InvalidRequest, TooLarge
from qconf.openai_calls import Call, NotScorable, ObserveRequest, Part, to_score
from qconf.run.calls import EMPTY, REFUSED
from qconf.wire import CompareRequest, ModelInfo, invalid


class BatchLine(BaseModel):
    """A line of the input of OpenAI's batches. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    body: Call

    @model_validator(mode="before")
    @classmethod
    def _check(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if "body" not in fields:
            raise invalid(
                "body",
                "'body' is missing, the call, which a batch's output does not have: expected lines of its input, or "
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
        return "a record"
    return "a call" if given.keys() & {"messages", "prompt"} else None


class Line(RootModel[Any]):
    """A call in one of the forms that are read, told apart by their fields."""

    root: Annotated[
        Annotated[Call, Tag("a call")]
        | Annotated[ObserveRequest, Tag("with its answer")]
        | Annotated[BatchLine, Tag("of a batch")]
        | Annotated[RecordedCall, Tag("a record")],
        Discriminator(
            _form,
            custom_error_type="call",
            custom_error_message="expected a call with 'messages' or 'prompt', a 'request' with its 'response', a line "
            "of a batch with 'custom_id' and 'body', or a recorded call with 'prompt_token_ids' and 'token_ids'",
        ),
    ]


@dataclass
class _LoggedCall:
    """A call, what became of it, and what is scored of it: as it was read, then as windows."""

    line: int
    kind: str
    given: Sequence[Window | CompareRequest]
    windows: list[Window] = field(default_factory=list)
    refusal: str | None = None


def load_requests(
    path: Path,
    base: ModelInfo,
    make_servers: Callable[[], Servers],
    *,
    concurrency: int,
    window: int | None = None,
    stride: int | None = None,
    add_special_tokens: bool = True,
    limit: int | None = None,
) -> LoadedTask:
    """Return a task named after the file, with an item per prompt of a call; the servers tokenize.

    What is longer than a window, by default the models' context, is cut when it is sent.
    """
    check_windows(base, window, stride)
    content = read(path)
    calls = [_logged(number, line.root) for number, _, line in parsed_lines(path, content, Line, limit)]
    asyncio.run(_tokenize(calls, make_servers, concurrency, add_special_tokens))
    windows = [window for call in calls for window in call.windows]
    kinds = dict(Counter(call.kind for call in calls))
    refusal = next((f"line {call.line}: {call.refusal}" for call in calls if call.refusal), None)
    if not windows:
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        raise TaskError(f"{path} has no call that can be scored: {counts}" + (f"; {refusal}" if refusal else ""))
    items = tuple(window_item(path.stem, index, each, "record") for index, each in enumerate(windows))
    return LoadedTask(path.stem, version(content), 0, items, calls=kinds, refusal=refusal)


def _logged(number: int, line: Call | ObserveRequest | BatchLine | RecordedCall) -> _LoggedCall:
    if isinstance(line, RecordedCall):
        if line.prompt_token_ids and line.token_ids:
            return _LoggedCall(number, line.mirrored.part, [Window(line.prompt_token_ids, line.token_ids, 0)])
        return _LoggedCall(number, EMPTY, [])
    try:
        if isinstance(line, ObserveRequest):
            found = to_score(line.request, line.response)
        else:
            found = to_score(line.body if isinstance(line, BatchLine) else line, None)
    except NotScorable as exc:
        return _LoggedCall(number, exc.reason, [])
    return _LoggedCall(number, found.part, [_with_ids(request) for request in found.requests])


def _with_ids(request: CompareRequest) -> Window | CompareRequest:
    """Return the window of a request that has only ids; others are tokenized first."""
    answer = request.continuations[0] if request.continuations else None
    if isinstance(request.prompt, list) and isinstance(answer, list):
        return Window(request.prompt, answer, 0)
    return request


async def _tokenize(
    calls: Iterable[_LoggedCall], make_servers: Callable[[], Servers], concurrency: int, add_special_tokens: bool
) -> None:
    """Fill in the calls' windows."""
    queue = iter(calls)

    async def work() -> None:
        for call in queue:
            try:
                found = [
                    each if isinstance(each, Window) else await _window(servers, each, add_special_tokens)
                    for each in call.given
                ]
            except (InvalidRequest, TooLarge) as exc:
                call.kind, call.refusal = REFUSED, str(exc)
                continue
            call.windows = [window for window in found if window.scored]
            if call.given and not call.windows:
                call.kind = EMPTY

    async with make_servers() as servers:
        await together(work() for _ in range(concurrency))


async def _window(servers: Servers, request: CompareRequest, add_special_tokens: bool) -> Window:
    """Return the tokens of a request: those of the answer are scored, or else the prompt's except for the first."""
    answer = request.continuations[0] if request.continuations else None
    reply = await servers.tokenize(
        request.prompt,
        messages=request.messages,
        continuation=answer if isinstance(answer, str) else None,
        add_special_tokens=add_special_tokens,
    )
    if reply.continuation is not None:
        return Window(reply.tokens, reply.continuation, 0)
    return Window(reply.tokens[:1], reply.tokens[1:], 0)
