"""Parse the JSON of a body without blocking the event loop for long, whatever the body is."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from server.errors import TooLarge

MOST_VALUES = 2**20
MOST_FIELDS = 2**17
"""Beyond what any request needs. A hundred thousand fields take as long to parse as a million values: 0.1 s."""


def parse(body: bytes) -> Any:
    """Parse JSON. Raises TooLarge or JSONDecodeError. Of a field that is there twice, the last counts."""
    # Upper bounds, from the characters that JSON needs for each; a text with as many of them is refused with them.
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > MOST_VALUES or body.count(b'":') > MOST_FIELDS:
        raise TooLarge(
            f"the body has more values than are accepted in one request: {MOST_VALUES} values, {MOST_FIELDS} fields"
        )
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise json.JSONDecodeError(str(error), "", 0) from error


class _BodyRequest(Request):
    async def json(self) -> Any:
        return parse(await self.body())


class BodyRoute(APIRoute):
    """A route whose body is parsed within these limits."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which gets a request with its own ``json``."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_BodyRequest(request.scope, request.receive))

        return handle
