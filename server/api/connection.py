"""One connection: uvicorn's HTTP protocol with limits on request heads and on slow clients, and errors of our shape.

Tested on uvicorn 0.54.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from qconf import error_types
from qconf.error_types import STATUS
from qconf.wire import ErrorDetail, ErrorReply

HEAD_BYTES = 64 * 2**10
HEAD_LINES = 200
HEAD_SECONDS = 30
"""From the start of a connection, or of a request on it, to the end of the request's head."""
DRAIN_SECONDS = 2
SEND_SECONDS = 60
"""How long a reply may wait for a client that does not read."""


HALF_CLOSED_SECONDS = 1
"""How long a client is answered that sends no more. One that has left looks the same, and its work must end soon."""


class _Refused(Exception):
    """Ends parsing; the parser turns it into the error that its caller expects."""


class Connection(HttpToolsProtocol):
    """A connection whose client is neither slow nor large in its request heads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._draining = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._refusal: ErrorDetail | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._draining:
            return
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        # A parser holds back what it has of a header that does not end.
        if self._head_timer is not None and self._head_bytes > HEAD_BYTES and not self._draining:
            self._refuse(error_types.HEAD_TOO_LARGE, f"the request's head has more than {HEAD_BYTES} bytes")
            self.send_400_response("")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether the connection stays open: for a moment, where there is a reply to come."""
        # Over TLS asyncio cannot keep one direction open.
        cycle = self.cycle
        if self.scheme == "https" or cycle is None or cycle.more_body or cycle.response_complete:
            return False
        cycle.keep_alive = False
        self.loop.call_later(HALF_CLOSED_SECONDS, self.transport.close)
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._head_bytes = 0
        if len(self.headers) > HEAD_LINES:
            self._refuse(error_types.HEAD_TOO_LARGE, f"the request's head has more than {HEAD_LINES} lines")
            raise _Refused
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, and close the connection."""
        error = self._refusal or ErrorDetail(type=error_types.INVALID_REQUEST, message=msg)
        status = HTTPStatus(STATUS[error.type])
        body = ErrorReply(error=error).model_dump_json().encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # Read on for a moment: closing a connection while its client still sends loses the reply too.
        self._draining = True
        self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._draining or self.transport.is_closing():
            return
        if not self._head_bytes:
            self.transport.close()
            return
        self._refuse(error_types.TOO_SLOW, f"the request's head took longer than {HEAD_SECONDS} s")
        self.send_400_response("")

    def _refuse(self, type_: str, message: str) -> None:
        self._refusal = ErrorDetail(type=type_, message=message)
