"""One server or several of the same models: each request goes to the one whose prefix cache may hold its context."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from client.api import AsyncClient
from client.bench.in_flight import InFlight
from client.calls import Call, CompareFields, TokenizeFields, compare_call, tokenize_call, tokenizer_info_call
from client.errors import ConnectionFailed, QconfError, TimedOut, Unavailable
from client.retry import TRANSIENT, RetryPolicy
from client.routing import preferred
from qconf.wire import Comparison, TokenizeReply, TokenizerInfo

ABSENT = (ConnectionFailed, TimedOut, Unavailable)
"""Errors that say nothing about the request."""
PROBE_SECONDS = 5.0
"""Time between two questions to a server that went away."""

R = TypeVar("R", bound=BaseModel)


class Servers:
    """Send each request to the first present server in the order that its context gives.

    A server that does not answer is left out until it is ready again. Where none answers, or one is overloaded, there
    are pauses and ``retries`` as in ``AsyncClient``. Each server has its own bound of requests in flight, at most
    ``concurrency``.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        concurrency: int,
        timeout: float,
        retries: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        clients = [
            AsyncClient(
                url, timeout=timeout, retries=0, transport=transport, attempt_context=InFlight(concurrency).attempt
            )
            for url in urls
        ]
        self._clients = {client.base_url: client for client in clients}
        self._policy = RetryPolicy(retries, longest=timeout)
        self._away: dict[str, asyncio.Task[None]] = {}

    async def compare(self, **fields: Unpack[CompareFields]) -> Comparison:
        """Score a prompt or its continuations, or generate answers, as ``AsyncClient.compare`` does."""
        return await self._ask(compare_call(fields))

    async def tokenize(self, prompt: str | list[int] | None = None, **fields: Unpack[TokenizeFields]) -> TokenizeReply:
        """Return the token ids of a text, or of the chat ``messages``, under the models' tokenizer."""
        return await self._ask(tokenize_call(prompt, fields))

    async def tokenizer_info(self) -> TokenizerInfo:
        """Return the special tokens and the chat template of the models' tokenizer."""
        return await self._ask(tokenizer_info_call())

    async def ready(self) -> bool:
        """Return whether a server takes requests now."""
        return any(await asyncio.gather(*map(_ready, self._clients.values())))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        probes = list(self._away.values())
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()

    async def _ask(self, call: Call[R]) -> R:
        # What has no context reuses nothing: it may go anywhere.
        context = call.context or str(call.body)
        order, attempt = preferred(context, list(self._clients)), 0
        while True:
            try:
                return await self._once(order, call)
            except TRANSIENT as error:
                if (delay := self._policy.delay(attempt, error)) is None:
                    raise
            await asyncio.sleep(delay)
            attempt += 1

    async def _once(self, order: Sequence[str], call: Call[R]) -> R:
        """Ask the present servers, or all where none is, until one answers; raise the last one's error."""
        *others, last = [url for url in order if url not in self._away] or order
        for url in others:
            with suppress(*ABSENT):
                return await self._answer(url, call)
        return await self._answer(last, call)

    async def _answer(self, url: str, call: Call[R]) -> R:
        try:
            return await self._clients[url].send(call)
        except ABSENT:
            if len(self._clients) > 1 and url not in self._away:
                self._away[url] = asyncio.create_task(self._return(url))
            raise

    async def _return(self, url: str) -> None:
        """Wait until a server that went away is ready again."""
        await asyncio.sleep(PROBE_SECONDS)
        while not await _ready(self._clients[url]):
            await asyncio.sleep(PROBE_SECONDS)
        del self._away[url]


async def _ready(client: AsyncClient) -> bool:
    try:
        return await client.ready()
    except QconfError:  # something else may be listening there
        return False
