"""Refuse bodies that are too large without holding them in memory."""

import asyncio
import contextlib

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qconf.error_types import STATUS
from qconf.wire import ErrorReply
from server.errors import TooLarge
from server.monitoring.service_metrics import note_error

DRAIN_SECONDS = 2
MOST_DIGITS = 18
"""Of a Content-Length. Longer numbers are too large whatever they say, and Python refuses to read thousands."""


class BodyLimitMiddleware:
    """Refuses bodies over a number of bytes."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = declared.isdigit() and (len(declared) > MOST_DIGITS or int(declared) > self._max_bytes)
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
            error = TooLarge(f"the body has more than the {self._max_bytes} bytes that are accepted").detail
            note_error(scope, error.type)
            headers = {"connection": "close"}
            reply = JSONResponse(ErrorReply(error=error).model_dump(), STATUS[error.type], headers)
            await reply(scope, receive, send)


async def _drain(receive: Receive) -> None:
    """Read on for a moment: closing a connection while its client still sends loses the reply too."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                pass
