"""Limits on what a connection may cost: the size of a body, and work for a client that has left."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qconf.wire import ErrorReply
from server.errors import TooLarge

T = TypeVar("T")
DRAIN_SECONDS = 2


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


async def until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client leaves."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        watcher.cancel()
        task.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class BodyLimitMiddleware:
    """Refuses bodies over a number of bytes without holding them in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = declared.isdigit() and int(declared) > self._max_bytes
        received = 0

        async def counted() -> Message:
            nonlocal received, too_large
            message = await receive()
            received += len(message.get("body", b""))
            too_large = too_large or received > self._max_bytes
            if too_large:
                raise TooLarge("the body is too large")  # ends the reading; the reply is made below
            return message

        async def watched(message: Message) -> None:
            if not too_large:
                await send(message)

        if not too_large:
            with contextlib.suppress(TooLarge):
                await self._app(scope, counted, watched)
        if too_large:
            await _drain(receive)
            error = TooLarge(f"the body has more than the {self._max_bytes} bytes that are accepted")
            reply = JSONResponse(ErrorReply(error=error.detail).model_dump(), error.status, {"connection": "close"})
            await reply(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Reads on for a moment: a connection that is closed while its client still sends loses the answer too."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
