"""Connections of slow, large and malformed clients, on a real socket and without an engine."""

import asyncio
import contextlib
import errno
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from server import serve
from server.api import body_limit, connection
from server.api.body_limit import BodyLimitMiddleware
from server.api.connection import HEAD_BYTES, HEAD_LINES, Connection
from server.errors import StartError

LARGE = 64 * 2**20
TCP_REPAIR = 19
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of bytes of the body; /large answers with many bytes, /slow late, /headers with the
    number of headers, /unread without reading the body, /never when the client has left.
    """
    received, more = 0, scope["path"] != "/unread"
    while more:
        message = await receive()
        received, more = received + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/never":
        await receive()
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.3)
    if scope["path"] == "/headers":
        received = len(scope["headers"])
    body = b"x" * LARGE if scope["path"] == "/large" else str(received).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    application = BodyLimitMiddleware(echo, max_bytes=2**20)
    config = uvicorn.Config(application, http=Connection, lifespan="off", log_config=None, port=0)
    live = uvicorn.Server(config)
    with socket.socket() as listener, contextlib.suppress(asyncio.CancelledError):
        listener.bind(("127.0.0.1", 0))
        live.config.port = listener.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(live, "capture_signals", contextlib.nullcontext)
            task = asyncio.create_task(live.serve(sockets=[listener]))
            while not live.started:
                await asyncio.sleep(0.01)
            yield live
            live.should_exit = live.force_exit = True
            await task


@pytest.fixture
def connect(server: uvicorn.Server) -> Open:
    return lambda: asyncio.open_connection("127.0.0.1", server.config.port)


async def received(connect: Open, *parts: bytes) -> bytes:
    """Everything that comes back for parts that are sent one after the other."""
    reader, writer = await connect()
    for part in parts:
        with contextlib.suppress(ConnectionError):
            writer.write(part)
            await writer.drain()
        await asyncio.sleep(0.05)
    found = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return found


async def exchange(connect: Open, request: bytes) -> tuple[int, Any]:
    """Send bytes as they are, and return the answer's status and error."""
    reader, writer = await connect()
    with contextlib.suppress(ConnectionError):
        writer.write(request)
        await writer.drain()
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("request_", "status", "type_"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEAD_BYTES + b"a" * HEAD_BYTES, 431, "request_head_too_large"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * (HEAD_LINES + 1) + b"\r\n",
            431,
            "request_head_too_large",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * HEAD_BYTES + b"\r\n\r\n", 431, "request_head_too_large"),
        (CHUNKED + b"0\r\nX: " + b"a" * 8 * HEAD_BYTES, 431, "request_head_too_large"),
        (CHUNKED + b"0" * 8 * HEAD_BYTES, 431, "request_head_too_large"),
        (b"GET /" + b"a" * 2 * HEAD_BYTES, 431, "request_head_too_large"),
        (b"NOT HTTP AT ALL\r\n\r\n", 400, "invalid_request_error"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "invalid_request_error"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
            400,
            "invalid_request_error",
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
            413,
            "request_too_large",
        ),
    ],
    ids=[
        "long header",
        "many headers",
        "long header at once",
        "long trailer",
        "long chunk size",
        "long url",
        "no http",
        "negative length",
        "two lengths",
        "too large",
    ],
)
async def test_what_is_refused(connect: Open, request_: bytes, status: int, type_: str) -> None:
    found, body = await exchange(connect, request_)
    assert (found, body["error"]["type"]) == (status, type_), body


async def test_a_length_of_thousands_of_digits_is_an_error_of_the_client(connect: Open) -> None:
    length = b"1" * 5000
    found, body = await exchange(connect, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n")
    assert found in (400, 413), body


async def test_a_head_that_never_ends(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    found, body = await exchange(connect, b"GET / HTTP/1.1\r\nHost: x\r\nX: slow")
    assert (found, body["error"]["type"]) == (408, "request_timeout")


async def test_a_connection_that_says_nothing_is_closed(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    reader, writer = await connect()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_body_that_never_ends(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "BODY_SECONDS", 0.2)
    found, body = await exchange(connect, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nslow")
    assert (found, body["error"]["type"]) == (408, "request_timeout")


async def test_a_client_that_does_not_read_is_cut_off(
    connect: Open, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SEND_SECONDS", 0.3)
    reader, writer = await connect()
    writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        while not server.server_state.connections:
            await asyncio.sleep(0.01)
        while server.server_state.connections:
            await asyncio.sleep(0.05)
    writer.close()
    del reader


async def test_many_bodies_that_are_held_are_bounded(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "MOST_BODIES", 2)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
    held = [await connect() for _ in range(2)]
    for _, writer in held:
        writer.write(head + b"x" * 999_999)
        await writer.drain()
    await asyncio.sleep(0.3)
    found, body = await exchange(connect, head + b"x" * 999_999)
    assert (found, body["error"]["type"]) == (429, "overloaded")
    for reader, writer in held:
        writer.write(b"x")
        assert b"1000000" in await asyncio.wait_for(reader.readuntil(b"1000000"), 5)
        writer.close()
    found, _ = await exchange(connect, head.replace(b"Host: x", b"Connection: close") + b"x" * 1_000_000)
    assert found == 200


async def test_requests_go_on_as_usual_on_one_connection(connect: Open) -> None:
    reader, writer = await connect()
    for number in range(1, 4):
        body = b"x" * number
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (number, body))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(1) == str(number).encode()
    writer.close()


async def half_closed(connect: Open, path: bytes, length: int = 5) -> tuple[bytes, float]:
    """What a client receives that sends no more, and after how many seconds the connection ends."""
    reader, writer = await connect()
    started = time.monotonic()
    writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nhello" % (path, length))
    writer.write_eof()
    received = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return received, time.monotonic() - started


async def test_a_client_that_sends_no_more_is_answered(connect: Open) -> None:
    received, seconds = await half_closed(connect, b"/")
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n5")
    assert seconds < connection.HALF_CLOSED_SECONDS


async def test_a_client_that_may_have_left_is_not_waited_for(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HALF_CLOSED_SECONDS", 0.3)
    received, seconds = await half_closed(connect, b"/never")
    assert received == b""
    assert 0.3 <= seconds < 5


async def test_half_a_body_is_given_up_at_once(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HALF_CLOSED_SECONDS", 60)
    assert (await half_closed(connect, b"/", length=6))[0] == b""


def test_a_client_whose_machine_vanishes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "TCP_PROBES", {option: 1 for option in serve.TCP_PROBES})
    with serve.bound("127.0.0.1", 0) as listener:
        listener.listen()
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            try:
                client.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # closing it sends nothing from here on
            except PermissionError:
                pytest.skip("needs CAP_NET_ADMIN")
            finally:
                client.close()
            accepted.settimeout(10)
            with pytest.raises((ConnectionResetError, TimeoutError)) as lost:
                accepted.recv(1)
            assert lost.value.errno in (errno.ECONNRESET, errno.ETIMEDOUT), (
                "the connection was lost, not this test's time"
            )


@pytest.mark.parametrize(
    "bad",
    [b"NOT HTTP\r\n\r\n", b"GET /" + b"a" * 2 * HEAD_BYTES, CHUNKED + b"nothing hexadecimal\r\n"],
    ids=["no http", "long url", "bad chunk"],
)
@pytest.mark.parametrize("before", [1, 3])
async def test_what_cannot_be_parsed_does_not_take_the_place_of_earlier_replies(
    connect: Open, caplog: pytest.LogCaptureFixture, bad: bytes, before: int
) -> None:
    for parts in ((SLOW * before, bad), (SLOW * before + bad[:40], bad[40:])):
        found = await received(connect, *parts)
        assert found.count(b"HTTP/1.1 ") == found.count(b"HTTP/1.1 200") == before, found
    assert "Traceback" not in caplog.text


async def test_a_bad_chunk_has_one_reply(connect: Open, caplog: pytest.LogCaptureFixture) -> None:
    found = await received(connect, CHUNKED + b"1\r\na\r\n", b"nothing hexadecimal\r\n")
    assert found.count(b"HTTP/1.1 ") == found.count(b"HTTP/1.1 400") == 1, found
    assert "Traceback" not in caplog.text


async def test_trailers_are_not_headers(connect: Open) -> None:
    reader, writer = await connect()
    writer.write(CHUNKED.replace(b"POST /", b"POST /headers") + b"1\r\na\r\n0\r\nAuthorization: x\r\n\r\n")
    assert b"200" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert await reader.readexactly(1) == b"2", "Host and Transfer-Encoding"
    writer.close()


@pytest.mark.parametrize("close", [b"Connection: close\r\n", b""])
async def test_a_reply_comes_before_its_requests_body_is_read(connect: Open, close: bytes) -> None:
    reader, writer = await connect()
    size = 2**20
    writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\n" + close + b"Content-Length: %d\r\n\r\n" % size)
    await asyncio.sleep(0.1)  # the reply is there, and the client sends without looking
    writer.write(b"x" * size)
    await writer.drain()
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_client_that_is_gone_before_its_reply_leaves_no_traceback(
    connect: Open, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        _, writer = await connect()
        writer.write(b"POST /unread HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\nx")
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await writer.drain()
        writer.transport.abort()
    await asyncio.sleep(0.2)
    assert "Traceback" not in caplog.text


async def test_replies_are_sent_without_delay() -> None:
    """Else the body waits until the client has acknowledged the head, 40 ms later."""
    with serve.bound("127.0.0.1", 0) as listener:
        undelayed = asyncio.get_running_loop().create_future()

        async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            undelayed.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(connected, sock=listener):
            with socket.create_connection(listener.getsockname()):
                assert await undelayed


def test_of_two_servers_that_load_at_once_the_second_is_refused_in_a_sentence() -> None:
    with (
        serve.bound("127.0.0.1", 0) as first,
        serve.bound("127.0.0.1", first.getsockname()[1]) as second,
    ):
        serve.listen(first)
        with pytest.raises(StartError, match=r"cannot listen on 127\.0\.0\.1 port \d+: Address already in use"):
            serve.listen(second)
