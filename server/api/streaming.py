"""Replies that are sent while they are made: server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from qconf.wire import ErrorReply
from server.api.errors import unexpected
from server.api.work import ClientGone, Serving, answered
from server.errors import RequestError
from server.scoring.admission import Cost
from server.scoring.turns import Origin

Send = Callable[[str], None]
"""Sends the JSON of an event."""
HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""The second tells nginx not to keep events back."""
DONE = "[DONE]"


async def streamed(
    request: Request, serving: Serving, cost: Cost, work: Callable[[Origin, Send], Coroutine[Any, Any, None]]
) -> Response:
    """Answer with what the work sends. What fails before the first event is answered as an error of any other route.

    A later error is an event of its own, the last one. The work ends when the client leaves.
    """
    events: asyncio.Queue[str | None] = asyncio.Queue()
    task = asyncio.ensure_future(answered(request, serving, cost, lambda origin: work(origin, events.put_nowait)))
    task.add_done_callback(lambda _: events.put_nowait(None))
    try:
        first = await events.get()
    except asyncio.CancelledError:
        task.cancel()
        raise
    if first is None:
        task.result()
    return StreamingResponse(_lines(task, events, first), media_type="text/event-stream", headers=HEADERS)


async def _lines(
    task: "asyncio.Future[None]", events: "asyncio.Queue[str | None]", event: str | None
) -> AsyncIterator[str]:
    try:
        while event is not None:
            yield _line(event)
            event = await events.get()
        try:
            task.result()
        except (ClientGone, asyncio.CancelledError):
            return
        except Exception as error:
            detail = (error if isinstance(error, RequestError) else unexpected(error)).detail
            yield _line(ErrorReply(error=detail).model_dump_json())
            return
        yield _line(DONE)
    finally:
        task.cancel()


def _line(data: str) -> str:
    return f"data: {data}\n\n"
