"""The HTTP client, blocking and asynchronous. Both share everything but the waiting."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, closing, nullcontext
from typing import Any, Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from client.calls import (
    Call,
    CompareFields,
    TokenizeFields,
    batch_call,
    batch_entries,
    checked_url,
    compare_call,
    detokenize_call,
    models_call,
    ready_call,
    tokenize_call,
    tokenizer_info_call,
)
from client.errors import (
    ConnectionFailed,
    InvalidRequest,
    QconfError,
    TimedOut,
    Unavailable,
    raise_for_status,
    translated,
)
from client.events import CompareEvents
from client.retry import RETRIES, RetryPolicy
from client.routing import CONTEXT_HEADER
from client.tracing import traced
from qconf import __version__
from qconf.wire import (
    CompareRequest,
    Comparison,
    DetokenizeReply,
    ErrorDetail,
    GeneratedToken,
    ModelList,
    TokenizeReply,
    TokenizerInfo,
)

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 120.0
CONNECT_TIMEOUT = 10.0
# Every connection is kept: callers bound how many requests they have in flight. Idle ones are closed before five
# seconds, after which proxies and older servers close them, so that no request goes out on a dying connection.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=4.0)

API_KEY = "QCONF_API_KEY"
"""Environment variable of the key, which a command line would show to everyone on the machine."""

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class _Base:
    """What both clients know: where the server is, how long to wait, when to try again."""

    def __init__(self, base_url: str, timeout: float, retries: int, api_key: str | None) -> None:
        self.base_url = checked_url(base_url)
        self._timeout = httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._policy = RetryPolicy(retries, longest=timeout)
        self._headers = {"user-agent": f"qconf-client/{__version__}", "accept": "application/json"}
        if key := os.environ.get(API_KEY, "") if api_key is None else api_key:
            self._headers["authorization"] = f"Bearer {_checked_key(key)}"

    def _request(self, http: httpx.Client | httpx.AsyncClient, call: Call[Any]) -> httpx.Request:
        headers = {"content-type": "application/json"} if call.body else {}
        if call.context is not None:
            headers[CONTEXT_HEADER] = call.context
        return http.build_request(call.method, self.base_url + call.path, content=call.body, headers=headers)


def _checked_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidRequest("api_key: expected printable ASCII without spaces", param="api_key")
    return key


class Client(_Base):
    """Blocking client.

    ``timeout`` is in seconds and holds for each attempt, and for each pause that a busy server asks for; ``retries``
    counts the attempts after the first one, made on connection errors, time-outs, 429 and 503. ``api_key`` is for
    servers that ask for one; without it the environment variable QCONF_API_KEY is read. ``verify`` is the SSL context
    for a server whose certificate a private authority signed (``ssl.create_default_context(cafile=...)``).
    ``transport`` and ``sleep`` are what tests replace.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = RETRIES,
        api_key: str | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(base_url, timeout, retries, api_key)
        self._http = httpx.Client(
            timeout=self._timeout, headers=self._headers, limits=LIMITS, verify=verify, transport=transport
        )
        self._sleep = sleep

    def compare(self, **fields: Unpack[CompareFields]) -> Comparison:
        """Score a prompt, or its continuations, under the base and each quantized variant: see ``Comparison.of``."""
        return self._send(compare_call(fields))

    def stream_compare(self, **fields: Unpack[CompareFields]) -> Generator[GeneratedToken | Comparison]:
        """Yield each token of the answers as it comes, and at last the reply of ``compare``.

        ``max_tokens`` is needed. Only what fails before the first token is tried again. Closed early, the generator
        ends the request, and the server its work.
        """
        return self._events(compare_call(fields, stream=True))

    def compare_batch(self, requests: Sequence[CompareRequest | Mapping[str, Any]]) -> list[Comparison | ErrorDetail]:
        """Score many at once; a bad entry gets an ``ErrorDetail`` in its place, and the others their comparisons."""
        return batch_entries(self._send(batch_call(requests)), len(requests))

    def models(self) -> ModelList:
        """Return the base model, then its quantized variants, and what serves them."""
        return self._send(models_call())

    def tokenizer_info(self) -> TokenizerInfo:
        """Return the special tokens and the chat template of the models' tokenizer."""
        return self._send(tokenizer_info_call())

    def tokenize(self, prompt: str | list[int] | None = None, **fields: Unpack[TokenizeFields]) -> TokenizeReply:
        """Return the token ids of a text, or of the chat ``messages``, under the models' tokenizer."""
        return self._send(tokenize_call(prompt, fields))

    def detokenize(self, token_ids: Sequence[int]) -> DetokenizeReply:
        """Return the text of token ids under the models' tokenizer."""
        return self._send(detokenize_call(token_ids))

    def ready(self) -> bool:
        """Return whether the server takes requests now; False for a server that is starting or unreachable."""
        try:
            self._attempt(ready_call())
        except (Unavailable, ConnectionFailed, TimedOut):
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[R]) -> R:
        return self._retried(lambda: self._attempt(call))

    def _events(self, call: Call[Any]) -> Generator[GeneratedToken | Comparison]:
        response = self._retried(lambda: self._response(call, stream=True))
        with closing(response), translated(self.base_url):
            events = CompareEvents(response)
            for data in response.iter_bytes():
                yield from events.add(data)
            events.end()

    def _retried(self, attempted: Callable[[], T]) -> T:
        attempt = 0
        while True:
            try:
                return attempted()
            except QconfError as error:
                if (delay := self._policy.delay(attempt, error)) is None:
                    raise
            self._sleep(delay)
            attempt += 1

    def _attempt(self, call: Call[R]) -> R:
        return call.parse(self._response(call))

    def _response(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        request = self._request(self._http, call)
        with translated(self.base_url), traced(request) as span:
            response = self._http.send(request, stream=stream)
            span.set_attribute("http.response.status_code", response.status_code)
            if not response.is_success:
                response.read()
        raise_for_status(response)
        return response


class AsyncClient(_Base):
    """Asynchronous client; see ``Client``.

    ``attempt_context`` returns a context that each attempt of a request runs in: it sees the error, and can make
    attempts wait for each other.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = RETRIES,
        api_key: str | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        attempt_context: Callable[[], AbstractAsyncContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__(base_url, timeout, retries, api_key)
        self._http = httpx.AsyncClient(
            timeout=self._timeout, headers=self._headers, limits=LIMITS, verify=verify, transport=transport
        )
        self._sleep, self._attempt_context = sleep, attempt_context

    async def compare(self, **fields: Unpack[CompareFields]) -> Comparison:
        """Score a prompt, or its continuations, under the base and each quantized variant: see ``Comparison.of``."""
        return await self.send(compare_call(fields))

    def stream_compare(self, **fields: Unpack[CompareFields]) -> AsyncGenerator[GeneratedToken | Comparison]:
        """Yield each token of the answers as it comes, and at last the reply of ``compare``: see ``Client``."""
        return self._events(compare_call(fields, stream=True))

    async def compare_batch(
        self, requests: Sequence[CompareRequest | Mapping[str, Any]]
    ) -> list[Comparison | ErrorDetail]:
        """Score many at once; a bad entry gets an ``ErrorDetail`` in its place, and the others their comparisons."""
        return batch_entries(await self.send(batch_call(requests)), len(requests))

    async def models(self) -> ModelList:
        """Return the base model, then its quantized variants, and what serves them."""
        return await self.send(models_call())

    async def tokenizer_info(self) -> TokenizerInfo:
        """Return the special tokens and the chat template of the models' tokenizer."""
        return await self.send(tokenizer_info_call())

    async def tokenize(self, prompt: str | list[int] | None = None, **fields: Unpack[TokenizeFields]) -> TokenizeReply:
        """Return the token ids of a text, or of the chat ``messages``, under the models' tokenizer."""
        return await self.send(tokenize_call(prompt, fields))

    async def detokenize(self, token_ids: Sequence[int]) -> DetokenizeReply:
        """Return the text of token ids under the models' tokenizer."""
        return await self.send(detokenize_call(token_ids))

    async def send(self, call: Call[R]) -> R:
        """Send a call, and return its reply."""
        return await self._retried(lambda: self._attempt(call))

    async def ready(self) -> bool:
        """Return whether the server takes requests now; False for a server that is starting or unreachable."""
        try:
            await self._attempt(ready_call())
        except (Unavailable, ConnectionFailed, TimedOut):
            return False
        return True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _events(self, call: Call[Any]) -> AsyncGenerator[GeneratedToken | Comparison]:
        response = await self._retried(lambda: self._response(call, stream=True))
        async with aclosing(response):
            with translated(self.base_url):
                events = CompareEvents(response)
                async for data in response.aiter_bytes():
                    for event in events.add(data):
                        yield event
                events.end()

    async def _retried(self, attempted: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                async with self._attempt_context():
                    return await attempted()
            except QconfError as error:
                if (delay := self._policy.delay(attempt, error)) is None:
                    raise
            await self._sleep(delay)
            attempt += 1

    async def _attempt(self, call: Call[R]) -> R:
        return call.parse(await self._response(call))

    async def _response(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        request = self._request(self._http, call)
        with translated(self.base_url), traced(request) as span:
            response = await self._http.send(request, stream=stream)
            span.set_attribute("http.response.status_code", response.status_code)
            if not response.is_success:
                await response.aread()
        raise_for_status(response)
        return response
