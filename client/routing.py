"""Where requests with the same beginning go: a hash of it, which a balancer or several servers' client routes by."""

import hashlib
import json
from collections.abc import Sequence

from qconf.wire import CompareRequest

CONTEXT_HEADER = "x-qconf-context"
SHORTEST = 16
"""Tokens of the prefix cache's smallest block: of a shorter prompt nothing can be reused."""


def context_hash(request: CompareRequest) -> str:
    """Return a hash of what a prefix cache could reuse of a request, 16 hexadecimal digits.

    It covers the prompt, or the messages of a chat up to the first of the user: a chat that grows keeps its hash. Of a
    prompt that is too short to be reused it covers the continuations as well, so that such requests are spread.
    """
    begin: list[object]
    if request.messages is None:
        begin = [request.prompt]
        if len(request.prompt or "") < SHORTEST:
            begin.append(request.continuations)
    else:
        roles = [message.role for message in request.messages]
        end = roles.index("user") + 1 if "user" in roles else len(roles)
        begin = [[message.role, message.content] for message in request.messages[:end]]
    return _sha256(json.dumps(begin)).hex()[:16]


def preferred(context: str, urls: Sequence[str]) -> list[str]:
    """Return the servers in the order in which requests of a context try them.

    Rendezvous hashing (Thaler and Ravishankar 1998): when a server leaves, only its own contexts move.
    """
    return sorted(urls, key=lambda url: _sha256(f"{context} {url}"), reverse=True)


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
