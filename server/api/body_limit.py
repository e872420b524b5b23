"""Limits on the bodies of requests: how large one is, how long it takes, and how much all of them hold."""

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.refusal import refusal
from server.errors import Overloaded, RequestError, TooLarge, TooSlow

BODY_SECONDS = 60
MOST_BODIES = 64
"""Bodies of the largest size that may be held at once, however many connections there are."""
MOST_DIGITS = 18
"""Of a Content-Length. Longer numbers are too large whatever they say, and Python refuses to read thousands."""


class BodyLimitMiddleware:
    """Refuses bodies that are too large or too slow, without holding them in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        received, complete = 0, False
        error = self._declared(scope)

        async def counted() -> Message:
            nonlocal received, complete, error
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                error = TooSlow(f"the body took longer than {BODY_SECONDS} s")
                raise error from None
            size = len(message.get("body", b""))
            received += size
            self._held += size
            complete = not message.get("more_body", False)
            if received > self._max_bytes:
                error = self._too_large()
            elif self._held > MOST_BODIES * self._max_bytes:
                error = Overloaded("too many large requests are in flight", retry_after=1)
            if error is not None:
                raise error  # ends the reading; the reply is made below
            return message

        async def watched(message: Message) -> None:
            if error is None:
                await send(message)

        try:
            if error is None:
                with contextlib.suppress(TooLarge, TooSlow, Overloaded):
                    await self._app(scope, counted, watched)
        finally:
            self._held -= received
        if error is not None:
            await refusal(scope, error, {"connection": "close"})(scope, receive, send)

    def _declared(self, scope: Scope) -> RequestError | None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and (len(declared) > MOST_DIGITS or int(declared) > self._max_bytes):
            return self._too_large()
        return None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body has more than the {self._max_bytes} bytes that are accepted")
