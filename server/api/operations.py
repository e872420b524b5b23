"""Routes for operators: whether the server lives, whether it takes work, and its metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from qconf.wire import ErrorReply, ServerInfo
from server.api.errors import UNAUTHORIZED
from server.api.work import ServingDependency

router = APIRouter()
UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": ErrorReply}}


@router.get("/health", responses=UNAVAILABLE)
async def health(serving: ServingDependency) -> dict[str, str]:
    """Return 200 while the process and its engine work, 503 when the server should be restarted."""
    serving.service.check_alive()
    return {"status": "ok"}


@router.get("/ready", responses=UNAVAILABLE)
async def ready(serving: ServingDependency) -> dict[str, str]:
    """Return 200 while comparisons are answered, else 503."""
    serving.service.check_ready()
    return {"status": "ready"}


@router.get("/version", responses=UNAUTHORIZED)
async def version(serving: ServingDependency) -> ServerInfo:
    """Return the versions of the server and of vLLM, and the device."""
    return serving.service.models.server


@router.get("/metrics", response_class=PlainTextResponse, responses=UNAUTHORIZED)
async def prometheus(request: Request, serving: ServingDependency) -> Response:
    """Return Prometheus metrics, in its text format or in OpenMetrics, by the Accept header."""
    body, content_type = await asyncio.to_thread(serving.monitor.exposition, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
