"""Routes for operators: whether the server lives, whether it takes work, and its metrics."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from qconf.wire import ErrorReply
from server.api.work import ServingDependency

router = APIRouter()
UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": ErrorReply}}


@router.get("/health", responses=UNAVAILABLE)
async def health(serving: ServingDependency) -> dict[str, str]:
    """Whether the process and its engine live: 200, or 503 when it should be restarted."""
    serving.service.check_alive()
    return {"status": "ok"}


@router.get("/ready", responses=UNAVAILABLE)
async def ready(serving: ServingDependency) -> dict[str, str]:
    """Whether comparisons are answered now: 200, or 503."""
    serving.service.check_ready()
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
async def prometheus(request: Request, serving: ServingDependency) -> Response:
    """Metrics for Prometheus, in its text format or in OpenMetrics, as the Accept header asks."""
    body, content_type = await asyncio.to_thread(serving.monitor.exposition, request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type})
