"""Send cases over real sockets, and judge what comes back."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.hostile.cases import NO_ANSWER, Case
from qconf.error_types import STATUS

AT_ONCE = 8
ANSWER_SECONDS = 60
WAIT_SECONDS = 1.0
"""How long a case waits for an answer that need not come, and for more after a whole one."""
INSIDE = re.compile(rb'Traceback|File \\?"|site-packages|/(?:home|root|tmp|usr|work|app)/')
"""What no reply may show of the server."""


@dataclass(frozen=True)
class Reply:
    """One reply; the body of a reply to HEAD is empty whatever its length says."""

    status: int
    headers: dict[str, str]
    body: bytes


class Malformed(Exception):
    """What came is not a row of whole replies."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case, and what is wrong with that."""

    case: Case
    replies: list[Reply]
    wrong: str | None


async def send_all(url: str, cases: Iterable[Case]) -> list[Outcome]:
    """Send the cases, some of them at once."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> Outcome:
        async with slots:
            return await send(url, case)

    return await asyncio.gather(*(one(case) for case in cases))


async def send(url: str, case: Case) -> Outcome:
    """Send one case on a connection of its own."""
    try:
        found = await _exchange(url, case)
    except TimeoutError:
        return Outcome(case, [], "neither answered nor closed")
    try:
        replies = parse(found, bodies=not case.sent.startswith(b"HEAD "))
    except Malformed as error:
        return Outcome(case, [], f"{error}: {found[:200]!r}")
    return Outcome(case, replies, next(filter(None, _wrong(case, replies)), None))


async def _exchange(url: str, case: Case) -> bytes:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**26)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(case.sent)
            await asyncio.wait_for(writer.drain(), ANSWER_SECONDS)
            if case.half_closed:
                writer.write_eof()
        patience = WAIT_SECONDS if NO_ANSWER in case.allowed else ANSWER_SECONDS
        found = await _read(reader, patience)
        with contextlib.suppress(ConnectionError, OSError):
            writer.write_eof()  # whoever still waits for the rest of a request learns that there is none
            found += await _rest(reader)
        return found
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, patience: float) -> bytes:
    """Read until the end, or until nothing has come for a while."""
    found = b""
    while True:
        try:
            part = await asyncio.wait_for(reader.read(2**20), WAIT_SECONDS if found else patience)
        except (TimeoutError, ConnectionError):
            return found
        if not part:
            return found
        found += part


async def _rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), ANSWER_SECONDS)


def parse(found: bytes, *, bodies: bool = True) -> list[Reply]:
    """Split what came into replies."""
    replies = []
    while found:
        start, end, rest = found.partition(b"\r\n\r\n")
        status, headers = _head(start) if end else (0, {})
        if not status:
            raise Malformed("not a reply")
        if bodies and headers.get("transfer-encoding") == "chunked":
            body, found = _joined(rest)
            replies.append(Reply(status, headers, body))
            continue
        length = int(headers.get("content-length", "0")) if bodies and status >= 200 else 0
        if len(rest) < length:
            raise Malformed(f"a reply of {len(rest)} bytes instead of {length}")
        replies.append(Reply(status, headers, rest[:length]))
        found = rest[length:]
    return replies


def _joined(chunks: bytes) -> tuple[bytes, bytes]:
    """Join the chunks of a reply's body; return it and what comes after it."""
    body = b""
    while True:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size or b"0", 16)
        if len(rest) < length + 2:
            raise Malformed("a reply without its last chunk")
        if not length:
            return body, rest[2:]
        body, chunks = body + rest[:length], rest[length + 2 :]


def _head(start: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = start.decode("latin-1").split("\r\n")
    match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [^\r\n]*", first)
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if match is None or headers.get("transfer-encoding", "chunked") != "chunked":
        return 0, {}
    return int(match[1]), headers


def _wrong(case: Case, replies: list[Reply]) -> Iterable[str | None]:
    first = replies[0].status if replies else NO_ANSWER
    if first not in case.allowed:
        shown = f": {replies[0].body[:200]!r}" if replies else ""
        yield f"{first or 'no answer'}, expected {' or '.join(map(str, sorted(case.allowed)))}{shown}"
    if case.family == "smuggling" and len(replies) > 1:
        yield f"{len(replies)} replies to one request"
    for reply in replies:
        yield _wrong_reply(reply, empty=case.sent.startswith(b"HEAD "))


def _wrong_reply(reply: Reply, *, empty: bool) -> str | None:
    if reply.status >= 500:
        return f"{reply.status}: {reply.body[:300]!r}"
    if reply.status >= 400 and INSIDE.search(reply.body):
        return f"the reply shows the server's inside: {reply.body[:300]!r}"
    if reply.status < 400 or empty:
        return None
    try:
        type_ = json.loads(reply.body)["error"]["type"]
    except (ValueError, KeyError, TypeError):
        return f"{reply.status} of another shape: {reply.body[:300]!r}"
    return None if STATUS.get(type_) == reply.status else f"{reply.status} with type {type_}"
