"""Slow loris: clients that send a byte now and then, and never finish."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from benchmarks.hostile.cases import head

BYTE_SECONDS = 0.5
STARTS = {
    "head": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ",
    "body": head(b"POST /compare HTTP/1.1", b"Content-Type: application/json", b"Content-Length: 1000000"),
    "chunks": head(b"POST /compare HTTP/1.1", b"Transfer-Encoding: chunked"),
}
SENT = {"head": b"a", "body": b" ", "chunks": b"1\r\n \r\n"}


@contextlib.asynccontextmanager
async def slow_clients(url: str, count: int) -> AsyncIterator[Counter[str]]:
    """Keep so many connections of each kind busy; the counter has the first lines of the replies they got."""
    replies: Counter[str] = Counter()
    tasks = [asyncio.create_task(_trickle(url, kind, replies)) for kind in STARTS for _ in range(count)]
    try:
        yield replies
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _trickle(url: str, kind: str, replies: Counter[str]) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    reply = asyncio.create_task(reader.readline())
    try:
        writer.write(STARTS[kind])
        while not reply.done():
            writer.write(SENT[kind])
            await asyncio.wait([reply], timeout=BYTE_SECONDS)
        replies[f"{kind}: {reply.result().decode().strip() or 'closed'}"] += 1
    except ConnectionError:
        replies[f"{kind}: closed"] += 1
    finally:
        reply.cancel()
        writer.close()
