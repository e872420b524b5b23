"""A port of its own for operators, so that what they see can be kept from those who may only ask."""

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.refusal import refusal
from server.errors import NotFound

PROBES = ("/health", "/ready")
"""They tell nothing but whether the server works, and need no key."""
OPERATIONS = ("/metrics", "/docs", "/openapi.json", "/static-offline-docs")
TRUSTED = "qconf.operations"
"""Key of a request's scope: whether it came in through the operators' port."""


class OperationsPortMiddleware:
    """Serves operators' routes on their port, everything else on the other, and probes and versions on both."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path: str = scope["path"]
        # The address that the connection was accepted on, not what the client says in 'Host'.
        trusted = scope["server"][1] == self._port
        if path not in (*PROBES, "/version") and trusted != path.startswith(OPERATIONS):
            where = "on the operators' port alone" if not trusted else "on the server's other port"
            return await refusal(scope, NotFound(f"'{path}' is answered {where}"))(scope, receive, send)
        scope[TRUSTED] = trusted
        await self._app(scope, receive, send)
