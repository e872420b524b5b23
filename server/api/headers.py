"""Headers of every reply: its request's id, and what keeps browsers from doing more than showing it."""

import re
import uuid

from opentelemetry import trace
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.logs import REQUEST_ID

FORM = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class HeadersMiddleware:
    """Adds the headers. A client's own ``X-Request-Id`` comes back if it is one that logs can hold."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if FORM.fullmatch(given) else uuid.uuid4().hex
        REQUEST_ID.set(request_id)
        trace.get_current_span().set_attribute("qconf.request_id", request_id)

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, completed)
