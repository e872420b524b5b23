"""What every route that scores does around its work: admit it, bound it, and end it when nobody waits any more."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from opentelemetry import trace
from starlette.types import Scope

from server.errors import DeadlineExceeded, Unavailable
from server.monitoring.monitor import Monitor
from server.monitoring.service_metrics import PRINCIPAL
from server.scoring.admission import Admission, Cost
from server.scoring.service import RETRY_AFTER, Service
from server.scoring.turns import Origin
from server.shadow.shadow import Shadow

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


@dataclass(frozen=True)
class Serving:
    """What routes work with. Setting ``ended`` ends all work: its clients are told to try again.

    ``shadow`` is there where mirrored calls are taken.
    """

    service: Service
    admission: Admission
    monitor: Monitor
    request_seconds: float
    shadow: Shadow | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


async def _serving(request: Request) -> Serving:  # a plain function would get a thread for each request
    serving: Serving = request.app.state.serving
    return serving


ServingDependency = Annotated[Serving, Depends(_serving)]


async def answered(
    request: Request, serving: Serving, cost: Cost, work: Callable[[Origin], Coroutine[Any, Any, T]]
) -> T:
    """Await the work, and cancel it when the client leaves, the time is over or the server ends."""
    serving.service.check_ready()
    client = client_of(request.scope)
    with serving.admission.room(client, cost) as room:
        trace.get_current_span().add_event("admitted")
        task = asyncio.ensure_future(work(serving.service.origin(client, room)))
        gone = asyncio.ensure_future(_disconnected(request))
        ended = asyncio.ensure_future(serving.ended.wait())
        everything = (task, gone, ended)
        try:
            await asyncio.wait(everything, timeout=serving.request_seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise ClientGone
            if ended.done():
                raise Unavailable("the server stopped before the answer was ready", retry_after=RETRY_AFTER)
            raise DeadlineExceeded(f"the request took longer than {serving.request_seconds:g} s")
        finally:
            for each in everything:
                each.cancel()
            await asyncio.gather(*everything, return_exceptions=True)


def client_of(scope: Scope) -> str:
    """Return whose request it is: the API key's owner, or the address it comes from."""
    address = (scope.get("client") or ("",))[0]
    return str(scope.get(PRINCIPAL, address))


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
