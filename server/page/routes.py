"""Routes of the page: its files, and what the server did in the last minutes."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from server.api.errors import UNAUTHORIZED
from server.api.work import ServingDependency
from server.errors import NotFound
from server.monitoring.recent import RecentReply

STATIC = Path(__file__).parent / "static"
FILES = {"/": STATIC / "index.html"} | {f"/page/{path.name}": path for path in STATIC.iterdir()}
"""The page's files by their paths. They are the same for everybody and need no key: the page asks for it."""
HEADERS = {
    # The page shows what models and links say: nothing but its own files may run, and nothing leaves for elsewhere.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}

router = APIRouter()


@router.get("/page/recent", responses=UNAUTHORIZED)
async def recent(serving: ServingDependency) -> RecentReply:
    """Return what the last five minutes were like: requests, latency, mean KL and flips."""
    return await asyncio.to_thread(serving.monitor.recent)


@router.get("/", include_in_schema=False)
@router.get("/page/{name}", include_in_schema=False)
async def file(request: Request) -> FileResponse:
    """Return one of the page's files."""
    path = request.url.path
    if path not in FILES:
        raise NotFound(f"'{path}' is not a file of the page")
    return FileResponse(FILES[path], headers=HEADERS)
