"""One hostile request as bytes, and the routes that such requests are made for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NO_ANSWER = 0
"""Stands for a connection that ends without a reply."""
REFUSED = frozenset({400})
JUDGED = frozenset({200, 400})
"""For what may be valid or not: that depends on the route."""
VALID: Mapping[str, Any] = {
    "/compare": {"prompt": "the stone", "continuations": [" is", " was"], "label": 0, "detail": "summary"},
    "/compare/batch": {"requests": [{"prompt": "the stone", "detail": "summary"}]},
    "/v1/completions": {"model": "base", "prompt": "the stone", "max_tokens": 1, "logprobs": 1},
    "/v1/chat/completions": {
        "model": "base",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 2,
    },
    "/tokenize": {"prompt": "the stone"},
    "/detokenize": {"tokens": [5, 6]},
}
"""A body that is answered with 200, by route."""
GET_ROUTES = ("/health", "/ready", "/version", "/metrics", "/v1/models", "/tokenizer_info", "/openapi.json", "/docs")


@dataclass(frozen=True)
class Case:
    """What is sent, and which statuses the first reply may have; later replies belong to pipelined requests.

    With ``half_closed``, the client closes its sending side afterwards.
    """

    family: str
    name: str
    sent: bytes
    allowed: frozenset[int]
    half_closed: bool = False


def head(start: bytes, *lines: bytes, key: str = "", close: bool = True) -> bytes:
    """Make a request's head. ``start`` is its first line."""
    lines = (start, b"Host: localhost", *lines)
    if key:
        lines += (b"Authorization: Bearer " + key.encode(),)
    if close:
        lines += (b"Connection: close",)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(route: str, body: bytes, *lines: bytes, key: str = "", close: bool = True) -> bytes:
    """Make a request with a body; ``lines`` replace the ordinary Content-Type."""
    lines = lines or (b"Content-Type: application/json",)
    start = b"POST " + route.encode() + b" HTTP/1.1"
    return head(start, b"Content-Length: %d" % len(body), *lines, key=key, close=close) + body


def valid(route: str, key: str = "", *, close: bool = True) -> bytes:
    """Make a request that is answered with 200."""
    return post(route, json.dumps(VALID[route]).encode(), key=key, close=close)
