"""Streamed comparisons in the client: against a real server, and streams that go wrong."""

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from client import (
    AsyncClient,
    BadReply,
    Client,
    Comparison,
    ConnectionFailed,
    GeneratedToken,
    InternalError,
    InvalidRequest,
    QconfError,
    ServerError,
)
from tests.fake_server import FakeServer, Reply, compare, error

PROMPT = "Question: What is a cup made of?\nAnswer:"
FIELDS: dict[str, Any] = {"prompt": "a", "max_tokens": 3}


def answers(reply: GeneratedToken | Comparison) -> list[list[int]]:
    assert isinstance(reply, Comparison)
    assert reply.generation
    assert reply.generation.base
    assert reply.generation.quantized
    return [reply.generation.base.token_ids, reply.generation.quantized.token_ids]


def ids(events: Iterable[GeneratedToken | Comparison], model: str) -> list[int]:
    tokens = [event for event in events if isinstance(event, GeneratedToken)]
    return [token.scores.token_ids[0] for token in tokens if model in token.models]


def test_every_token_and_then_the_reply(server_url: str) -> None:
    with Client(server_url) as qconf:
        *tokens, reply = qconf.stream_compare(prompt=PROMPT, max_tokens=12, ignore_eos=True)
        assert answers(reply) == [ids(tokens, name) for name in ("base", "quantized")]
        again = qconf.compare(prompt=PROMPT, max_tokens=12, ignore_eos=True)
    assert answers(again) == answers(reply)


async def test_the_asynchronous_client_does_the_same(server_url: str) -> None:
    async with AsyncClient(server_url) as qconf:
        *tokens, reply = [each async for each in qconf.stream_compare(prompt=PROMPT, max_tokens=12, ignore_eos=True)]
        assert answers(reply) == [ids(tokens, name) for name in ("base", "quantized")]
        with pytest.raises(InvalidRequest, match="'generate_from' is 'w3'"):
            await anext(qconf.stream_compare(prompt=PROMPT, max_tokens=1, generate_from="w3"))


def test_a_stream_that_is_closed_early_ends_the_work(server_url: str) -> None:
    with Client(server_url) as qconf:
        events = qconf.stream_compare(prompt=PROMPT, max_tokens=900, ignore_eos=True)
        assert isinstance(next(events), GeneratedToken)
        events.close()
        deadline = time.monotonic() + 60
        while "qconf_requests_in_flight 0.0" not in httpx.get(f"{server_url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_what_the_server_refuses_is_an_error_as_of_any_request(server_url: str) -> None:
    with Client(server_url) as qconf:
        with pytest.raises(InvalidRequest, match="'generate_from' is 'w3'") as caught:
            next(qconf.stream_compare(prompt=PROMPT, max_tokens=1, generate_from="w3"))
        assert (caught.value.status, caught.value.param) == (400, "generate_from")
        with pytest.raises(InvalidRequest, match="'stream' needs 'max_tokens' of at least 1"):
            qconf.stream_compare(prompt=PROMPT)


def token(text: str = "b") -> dict[str, Any]:
    scores = compare({"prompt": [1], "continuations": [[98]]})["continuations"][0]["scores"]
    return {"models": ["base"], "index": 0, "text": text, "scores": scores}


def sent(*events: dict[str, Any] | str) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def streaming(content: bytes, size: int | None = None, media_type: str = "text/event-stream") -> Reply:
    pieces = [content[start : start + (size or len(content))] for start in range(0, len(content), size or len(content))]
    return httpx.Response(200, content=iter(pieces), headers={"content-type": media_type})


@pytest.mark.parametrize("size", [1, 7, None])
def test_events_are_found_wherever_the_bytes_are_cut(size: int | None) -> None:
    """A line separator within a text is not the end of an event's line."""
    content = sent(token("é\u2028\n\n"), compare(FIELDS), "[DONE]")
    fake = FakeServer(lambda _: streaming(content, size))
    with Client("http://fake", transport=fake.transport) as qconf:
        first, last = qconf.stream_compare(**FIELDS)
    assert isinstance(first, GeneratedToken)
    assert first.text == "é\u2028\n\n"
    assert isinstance(last, Comparison)
    assert fake.bodies("/compare") == [FIELDS | {"stream": True}]


def test_only_what_fails_before_the_first_token_is_tried_again() -> None:
    replies = iter([error(503, "starting"), error(429, "busy"), streaming(sent(token(), compare(FIELDS), "[DONE]"))])
    fake = FakeServer(lambda _: next(replies))
    with Client("http://fake", transport=fake.transport, sleep=lambda _: None) as qconf:
        assert len(list(qconf.stream_compare(**FIELDS))) == 2
    assert len(fake.received) == 3


FAILED = {"type": "internal_error", "message": "the engine has died", "param": None}
WRONG = [
    pytest.param(sent(token(), {"error": FAILED}), InternalError, "the engine has died", id="error"),
    pytest.param(sent(token(), {"error": FAILED | {"type": "x"}}), ServerError, "the engine has died", id="new error"),
    pytest.param(sent(token()), ConnectionFailed, "ended the stream before its reply", id="early end"),
    pytest.param(sent(token(), "[DONE]"), ConnectionFailed, "ended the stream before its reply", id="no reply"),
    pytest.param(sent(token(), {"object": "x"}), BadReply, "sent an event that is not one of a comparison", id="other"),
    pytest.param(sent(token(), "half"), BadReply, "sent an event that is not one of a comparison", id="no JSON"),
]


@pytest.mark.parametrize(("content", "expected", "message"), WRONG)
def test_a_stream_that_fails_on_the_way(content: bytes, expected: type[QconfError], message: str) -> None:
    fake = FakeServer(lambda _: streaming(content))
    with Client("http://fake", transport=fake.transport) as qconf:
        events = qconf.stream_compare(**FIELDS)
        assert isinstance(next(events), GeneratedToken)
        with pytest.raises(expected, match=message) as caught:
            next(events)
    assert type(caught.value) is expected
    assert len(fake.received) == 1


def test_a_reply_that_is_not_a_stream() -> None:
    fake = FakeServer(lambda _: streaming(b"{}", media_type="application/json"))
    with (
        Client("http://fake", transport=fake.transport) as qconf,
        pytest.raises(BadReply, match="sent application/json, expected text/event-stream"),
    ):
        next(qconf.stream_compare(**FIELDS))


@contextmanager
def hanging_up() -> Iterator[str]:
    """Serve one request: a token, in a chunked body that is never finished."""
    event = sent(token())
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                connection.sendall(head + f"{len(event):x}\r\n".encode() + event + b"\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_a_connection_that_breaks() -> None:
    with hanging_up() as url, Client(url) as qconf:
        events = qconf.stream_compare(**FIELDS)
        assert isinstance(next(events), GeneratedToken)
        with pytest.raises(ConnectionFailed, match="cannot reach http"):
            next(events)


async def test_a_connection_that_breaks_for_the_asynchronous_client() -> None:
    with hanging_up() as url:
        async with AsyncClient(url) as qconf:
            events = qconf.stream_compare(**FIELDS)
            assert isinstance(await anext(events), GeneratedToken)
            with pytest.raises(ConnectionFailed, match="cannot reach http"):
                await anext(events)
