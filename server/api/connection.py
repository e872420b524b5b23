"""One connection: uvicorn's HTTP protocol with limits on request heads and on slow clients, and errors of our shape.

Tested on uvicorn 0.54.
"""

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

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


class _Transport:
    """A transport that is closed unless ``linger`` says that it will be later."""

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport = transport
        self._linger = linger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        """Close it, at once or later."""
        if not self._linger():
            self._transport.close()


class Connection(HttpToolsProtocol):
    """A connection whose client is neither slow nor large in its request heads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._draining = False
        self._last = False
        """Whether nothing is read any more, and the connection ends after the replies that are due."""
        self._in_head = False
        self._unread_bytes = 0
        """Since the latest part of a body, or the end of a head: what the parser may be holding."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._refusal: ErrorDetail | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, _Transport(transport, self._linger)))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._draining or self._last:
            return
        self._unread_bytes += len(data)
        super().data_received(data)
        # A parser holds back what it has of a header, or of a trailer after chunks, that does not end.
        if self._unread_bytes > HEAD_BYTES and not (self._draining or self._last):
            self._refuse_bytes()
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
        self._in_head = True
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers would become headers of a request that is being answered.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._unread_bytes = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES:
            self._refuse_bytes()
            raise _Refused
        if len(self.headers) > HEAD_LINES:
            self._refuse(error_types.HEAD_TOO_LARGE, f"the request's head has more than {HEAD_LINES} lines")
            raise _Refused
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unread_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        last = self._last and not self.pipeline
        super().on_response_complete()
        if last:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, and close the connection.

        Replies have the order of their requests: while earlier ones are being answered, the connection ends after them.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            unfinished = self.cycle.more_body  # then what cannot be parsed is this request's own body
            if self.pipeline or not unfinished:
                if unfinished:
                    self.pipeline.popleft()
                self._last = True
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        error = self._refusal or ErrorDetail(type=error_types.INVALID_REQUEST, message=msg)
        status = HTTPStatus(STATUS[error.type])
        body = ErrorReply(error=error).model_dump_json().encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self._drain()

    def _linger(self) -> bool:
        """Return whether the connection stays for a moment although it shall be closed."""
        if self._draining or self.pipeline or self.cycle is None or not self.cycle.more_body:
            return False
        self._drain()
        return True

    def _drain(self) -> None:
        """Read on for a moment: closing a connection while its client still sends loses the reply too."""
        with contextlib.suppress(OSError):  # the client may be gone already
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self._draining = True
        self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._draining or self._last or self.transport.is_closing():
            return
        if not self._unread_bytes:
            self.transport.close()
            return
        self._refuse(error_types.TOO_SLOW, f"the request's head took longer than {HEAD_SECONDS} s")
        self.send_400_response("")

    def _refuse_bytes(self) -> None:
        self._refuse(error_types.HEAD_TOO_LARGE, f"the request's head has more than {HEAD_BYTES} bytes")

    def _refuse(self, type_: str, message: str) -> None:
        self._refusal = ErrorDetail(type=type_, message=message)
