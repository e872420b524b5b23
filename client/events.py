"""The server-sent events of a streamed comparison, from the bytes of its response."""

from collections.abc import Iterator

import httpx
from pydantic import TypeAdapter, ValidationError

from client.errors import BY_TYPE, BadReply, ConnectionFailed, ServerError
from qconf.wire import Comparison, ErrorReply, GeneratedToken

MEDIA_TYPE = "text/event-stream"
BETWEEN = b"\n\n"
DONE = b"[DONE]"

_event: TypeAdapter[GeneratedToken | Comparison | ErrorReply] = TypeAdapter(GeneratedToken | Comparison | ErrorReply)


class CompareEvents:
    """What a response has sent so far. BadReply where it is not a stream of events."""

    def __init__(self, response: httpx.Response) -> None:
        self._url = response.request.url
        self._request_id = response.headers.get("x-request-id")
        self._rest = b""
        self._replied = False
        sent = response.headers.get("content-type", "")
        if not sent.startswith(MEDIA_TYPE):
            raise BadReply(f"{self._url} sent {sent or 'no content type'}, expected {MEDIA_TYPE}")

    def add(self, data: bytes) -> Iterator[GeneratedToken | Comparison]:
        """Yield the events that these bytes complete. Raises the error of an event that is one."""
        *whole, self._rest = (self._rest + data).split(BETWEEN)
        for event in whole:
            if (sent := event.removeprefix(b"data: ")) != DONE:
                yield self._parsed(sent)

    def end(self) -> None:
        """Raise ConnectionFailed where the stream ended before its reply."""
        if not self._replied:
            raise ConnectionFailed(f"{self._url} ended the stream before its reply")

    def _parsed(self, sent: bytes) -> GeneratedToken | Comparison:
        try:
            event = _event.validate_json(sent)
        except ValidationError as exc:
            raise BadReply(f"{self._url} sent an event that is not one of a comparison: {sent[:200]!r}") from exc
        if isinstance(event, ErrorReply):
            detail = event.error
            raise BY_TYPE.get(detail.type, ServerError)(
                detail.message, type=detail.type, param=detail.param, request_id=self._request_id
            )
        self._replied = isinstance(event, Comparison)
        return event
