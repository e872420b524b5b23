"""Valid requests with random edits, reproducible by their seed."""

import random
from collections.abc import Iterator

from benchmarks.hostile.cases import GET_ROUTES, NO_ANSWER, VALID, Case, head, valid
from qconf.error_types import STATUS

DECLARED = frozenset({NO_ANSWER, 100, 200} | {status for status in STATUS.values() if status < 500})
MOST_EDITS = 4
TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"%",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
    ),
    *(
        b"0",
        b"-1",
        b"99999999999999999999",
        b"1e999",
        b"NaN",
        b"null",
        b"true",
        b"\\ud800",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
    ),
    *(b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n"),
    *(b"HTTP/1.0", b"\r\n\r\n", b"a" * 300),
)


def mutants(seed: int, count: int, key: str = "") -> Iterator[Case]:
    """Yield requests of all routes with up to ``MOST_EDITS`` edits each."""
    draw = random.Random(seed)
    requests = [valid(route, key) for route in VALID]
    requests += [head(f"GET {route} HTTP/1.1".encode(), key=key) for route in GET_ROUTES]
    for number in range(count):
        sent = draw.choice(requests)
        for _ in range(draw.randint(1, MOST_EDITS)):
            sent = _edited(sent, draw)
        yield Case("mutants", f"seed {seed}, number {number}", sent, DECLARED)


def _edited(sent: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(sent) + 1)
    to = min(len(sent), at + draw.randint(1, 20))
    before, part, after = sent[:at], sent[at:to], sent[to:]
    return draw.choice(
        (
            lambda: before + after,
            lambda: before + part + part + after,
            lambda: before + draw.choice(TOKENS) + part + after,
            lambda: before + draw.choice(TOKENS) + after,
            lambda: before + draw.randbytes(len(part)) + after,
            lambda: before + bytes(byte ^ 1 << draw.randrange(8) for byte in part[:1]) + part[1:] + after,
        )
    )()
