"""Clients of all kinds, well-behaved and not, against one server. Each kind has the statuses that it may see."""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

KEY = "soak-0123456789abcdef"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
VOCABULARY = 400
"""The demo pair's; ids above it are refused."""
WORKERS = 6
PAUSE_SECONDS = 0.02
"""Between two clients of a worker, so that bursts are what overloads the server."""
BURST = 200
PROBE = {"prompt": list(range(5, 60)), "continuations": [[7, 8, 9], [10, 11]], "detail": "summary"}
LATE = ("429", "503", "504")
"""What any client may see while the server is overloaded."""
BAD_BODIES = (
    b"",
    b"{",
    b"[" * 10_000,
    b'{"prompt": NaN}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": 7}',
    b'{"prompt": "a", "continuations": []}',
    b'{"prompt": "a", "nothing": 1}',
    b'{"prompt": [100000000000000000000]}',
    b'{"prompt": [1, 2, 999999]}',
    b'{"prompt": "' + b"a " * 50_000 + b'"}',
    b'{"messages": [' + b"{}," * 5_000 + b"{}]}",
    random.Random(0).randbytes(1000),
)
KILLED = """
import socket, sys, time
host, port, head, body = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4].encode()
held = []
for _ in range(10):
    held.append(socket.create_connection((host, port)))
    held[-1].sendall(head + body)
print("sent", flush=True)
time.sleep(60)
"""


def write_keys(file: Path, number: int) -> None:
    """Replace the key file: the soak's key stays, the other changes."""
    part = file.with_suffix(".part")
    part.write_text(f"soak = {KEY}\nother = {number:016}abcdef\n")
    os.replace(part, file)


@dataclass
class Seen:
    """What clients saw: statuses by kind, what no client may see, and the probe's numbers."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def status(self, kind: str, status: str, allowed: tuple[str, ...], text: str = "") -> None:
        """Count a status, and keep it where it is none of those allowed."""
        self.statuses[kind, status] += 1
        if status not in allowed:
            self.unexpected.append(f"{kind}: {status} {text[:200]}")

    def probed(self, numbers: list[float]) -> None:
        """Keep the smallest and the largest of each number."""
        self.low = [min(pair) for pair in zip(self.low or numbers, numbers, strict=True)]
        self.high = [max(pair) for pair in zip(self.high or numbers, numbers, strict=True)]

    @property
    def spread(self) -> float:
        """The largest difference between two answers to the probe."""
        return max((high - low for low, high in zip(self.low, self.high, strict=True)), default=0.0)


class Traffic:
    """Sends clients to a server, drawn at random with a seed."""

    def __init__(self, url: str, keys: Path, seen: Seen, seed: int) -> None:
        address = urlsplit(url)
        self._url, self._host, self._port = url, str(address.hostname), int(address.port or 0)
        self._keys, self._seen, self._random = keys, seen, random.Random(seed)
        self._reloads = 0

    async def run(self, seconds: float) -> None:
        """Keep some clients going for so long, then wait until all have ended."""
        until = time.monotonic() + seconds
        # Weights: most clients are well-behaved.
        kinds: dict[Callable[[aiohttp.ClientSession], Awaitable[None]], int] = {
            self._compare: 30,
            self._probe: 5,
            self._batch: 5,
            self._completion: 10,
            self._generates: 6,
            self._streams: 6,
            self._tools: 10,
            self._reads: 3,
            self._bad_body: 10,
            self._stranger: 3,
            self._leaves: 10,
            self._half_closes: 5,
            self._slow: 2,
            self._burst: 1,
            self._killed: 1,
            self._reload: 1,
        }

        async def work(http: aiohttp.ClientSession) -> None:
            while time.monotonic() < until:
                (kind,) = self._random.choices(list(kinds), list(kinds.values()))
                await kind(http)
                await asyncio.sleep(PAUSE_SECONDS)

        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(self._url, connector=connector, headers=AUTHORIZED) as http:
            await asyncio.gather(*(work(http) for _ in range(WORKERS)))

    def _ids(self, count: int) -> list[int]:
        return [self._random.randrange(5, VOCABULARY) for _ in range(count)]

    def _item(self) -> dict[str, Any]:
        choices = [self._ids(self._random.randrange(1, 9)) for _ in range(4)]
        return {"prompt": self._ids(self._random.randrange(10, 90)), "continuations": choices, "detail": "summary"}

    async def _send(
        self, http: aiohttp.ClientSession, kind: str, path: str, body: Any, allowed: tuple[str, ...] = ("200", *LATE)
    ) -> bytes:
        options = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with http.post(path, **options) as reply:
            content = await reply.read()
        self._seen.status(kind, str(reply.status), allowed, content.decode("utf-8", "replace"))
        return content if reply.status == 200 else b""

    async def _compare(self, http: aiohttp.ClientSession) -> None:
        detailed = {"prompt": "the stone is heavy and the", "top_logprobs": self._random.randrange(5)}
        await self._send(http, "compare", "/compare", self._random.choice([self._item(), detailed]))

    async def _probe(self, http: aiohttp.ClientSession) -> None:
        if content := await self._send(http, "probe", "/compare", PROBE):
            scored = json.loads(content)["continuations"]
            self._seen.probed([each[model]["logprob"] for each in scored for model in ("base", "quantized")])

    async def _batch(self, http: aiohttp.ClientSession) -> None:
        entries = [self._item() for _ in range(8)] + [{"prompt": 7}]
        await self._send(http, "batch", "/compare/batch", {"requests": entries})

    async def _completion(self, http: aiohttp.ClientSession) -> None:
        body = {"model": self._random.choice(["base", "quantized"]), "prompt": self._ids(30), "max_tokens": 1}
        await self._send(http, "completion", "/v1/completions", body | {"echo": True, "logprobs": 1})

    def _answers(self) -> dict[str, Any]:
        drawn = {"temperature": self._random.choice([0.0, 1.0]), "ignore_eos": True}
        return {"prompt": self._ids(30), "max_tokens": self._random.randrange(1, 40), "detail": "summary", **drawn}

    async def _generates(self, http: aiohttp.ClientSession) -> None:
        body = self._answers()
        if content := await self._send(http, "generates", "/compare", body):
            answers = json.loads(content)["generation"]
            lengths = [len(answers[model]["token_ids"]) for model in ("base", "quantized")]
            if lengths != [body["max_tokens"]] * 2:
                self._seen.unexpected.append(f"generates: {lengths} tokens, expected {body['max_tokens']}")

    async def _streams(self, http: aiohttp.ClientSession) -> None:
        """Read an answer as it comes; every second client leaves after the first event."""
        leaves = self._random.random() < 0.5
        async with http.post("/compare", json=self._answers() | {"stream": True}) as reply:
            kind = "leaves a stream" if leaves else "streams"
            self._seen.status(kind, str(reply.status), ("200", *LATE))
            if reply.status == 200 and leaves:
                await reply.content.readuntil(b"\n\n")
                reply.close()
            elif reply.status == 200 and not (content := await reply.read()).endswith(b"data: [DONE]\n\n"):
                self._seen.unexpected.append(f"streams: ended with {content[-200:]!r}")

    async def _tools(self, http: aiohttp.ClientSession) -> None:
        text = "the stone is heavy " * self._random.randrange(1, 50)
        await self._send(http, "tokenize", "/tokenize", {"prompt": text})
        await self._send(http, "detokenize", "/detokenize", {"tokens": self._ids(50)})

    async def _reads(self, http: aiohttp.ClientSession) -> None:
        for path in ("/metrics", "/v1/models", "/openapi.json", "/health", "/ready"):
            async with http.get(path) as reply:
                await reply.read()
            self._seen.status("read", str(reply.status), ("200",))

    async def _bad_body(self, http: aiohttp.ClientSession) -> None:
        body = self._random.choice(BAD_BODIES)
        path = self._random.choice(["/compare", "/compare/batch", "/v1/completions", "/tokenize"])
        # A long text is a good body of /tokenize.
        allowed = ("400", "413", "422", *LATE) + (("200",) if path == "/tokenize" else ())
        await self._send(http, "bad body", path, body, allowed)

    async def _stranger(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/compare", json=self._item(), headers={"authorization": "Bearer wrong"}) as reply:
            await reply.read()
        self._seen.status("stranger", str(reply.status), ("401",))

    def _raw(self, requests: int) -> tuple[str, str]:
        body = json.dumps({"requests": [self._item() for _ in range(requests)]})
        lines = (
            "POST /compare/batch HTTP/1.1",
            "Host: x",
            "Content-Type: application/json",
            f"Authorization: Bearer {KEY}",
        )
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]), body

    async def _leaves(self, http: aiohttp.ClientSession) -> None:
        """Send a request in part or whole, and close the connection in the middle of it."""
        head, body = self._raw(20)
        _, writer = await asyncio.open_connection(self._host, self._port)
        writer.write((head + body)[: self._random.randrange(1, 2 * len(head + body))].encode())
        await asyncio.sleep(self._random.choice([0, 0.01, 0.1]))
        writer.close()
        self._seen.statuses["leaves", "-"] += 1

    async def _half_closes(self, http: aiohttp.ClientSession) -> None:
        """Send a request, then no more; read what comes."""
        head, body = self._raw(1)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        writer.write((head + body).encode())
        writer.write_eof()
        status = ""
        with contextlib.suppress(ConnectionError):
            status = (await reader.read()).decode().partition(" ")[2][:3]
        writer.close()
        self._seen.status("half closes", status or "closed", ("200", "closed", *LATE))

    async def _slow(self, http: aiohttp.ClientSession) -> None:
        """Send and read in small pieces."""
        head, body = self._raw(2)
        reader, writer = await asyncio.open_connection(self._host, self._port)
        request = (head + body).encode()
        for start in range(0, len(request), 200):
            writer.write(request[start : start + 200])
            await asyncio.sleep(0.05)
        reply = b""
        while b"\r\n\r\n" not in reply and (part := await reader.read(50)):
            reply += part
            await asyncio.sleep(0.05)
        writer.close()
        self._seen.status("slow", reply.decode().partition(" ")[2][:3] or "closed", ("200", *LATE))

    async def _burst(self, http: aiohttp.ClientSession) -> None:
        """Many requests at once."""
        await asyncio.gather(*(self._send(http, "burst", "/compare", self._item()) for _ in range(BURST)))

    async def _killed(self, http: aiohttp.ClientSession) -> None:
        """Kill a process with requests in flight: SIGKILL."""
        head, body = self._raw(20)
        arguments = ("-S", "-c", KILLED, self._host, str(self._port), head, body)
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.sleep(self._random.choice([0, 0.2]))
        process.kill()
        await process.wait()
        self._seen.statuses["killed", "-"] += 1

    async def _reload(self, http: aiohttp.ClientSession) -> None:
        """Change the key file."""
        self._reloads += 1
        write_keys(self._keys, self._reloads)
        self._seen.statuses["new key file", "-"] += 1
