"""Refuse work early: without room even for the smallest request, or without quota, the body is not read."""

from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.refusal import refusal
from server.api.work import client_of
from server.errors import Overloaded, QuotaExceeded
from server.scoring.admission import Admission

ROUTES = ("/compare", "/compare/batch", "/v1/completions")


class OverloadMiddleware:
    """Answers 429 before a request is parsed, so that refusing costs little of what answering needs."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"] in ROUTES:
            try:
                self._admission.check(client_of(scope))
            except (Overloaded, QuotaExceeded) as error:
                return await refusal(scope, error)(scope, receive, send)
        await self._app(scope, receive, send)
