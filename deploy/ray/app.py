"""The server's application as a deployment of Ray Serve: every replica has an engine of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from ray import serve
from ray.util import get_node_ip_address
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.ray.settings import replica_settings
from qconf.tracing import tracing
from server.application import application
from server.engine.preload import set_environment, set_preload
from server.errors import StartError, Unavailable
from server.logs import set_up_logs, vllm_logs
from server.serve import bound, http_server, listen
from server.settings import Settings


class AtRoot:
    """The application without the prefix that Serve has routed by, as behind any proxy that removes it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or start or end the application."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def reply(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Serve's proxy adds the same one.
                del MutableHeaders(raw=message["headers"])["x-request-id"]
            await send(message)

        path = scope["path"].removeprefix(scope["root_path"]) or "/"
        # The port that a proxy listens on could be the one that a replica takes for operators.
        here = {"path": path, "root_path": "", "server": (scope["server"][0], None)}
        await self._app({**scope, **here}, receive, reply)


@serve.deployment(
    # The engine batches what it is given; the server's own limits refuse what is too much.
    max_ongoing_requests=256,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 32},
    # A replica is replaced after three failures in a row.
    health_check_period_s=2,
    graceful_shutdown_timeout_s=60,
)
@serve.ingress()
class Pair:
    """One replica: a pair on an engine, behind Serve's proxies, and a port of its own for operators."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ending = contextlib.AsyncExitStack()

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Start the engine, and return what requests are handed to. StartError says why the pair cannot be served."""
        settings = self._settings
        set_up_logs(settings.log_level, settings.log_format)
        set_environment(settings.log_level)
        set_preload()
        self._ending.enter_context(vllm_logs(settings.log_level, settings.log_format))
        self._ending.enter_context(tracing("qconf-server"))
        listener = self._ending.enter_context(bound(get_node_ip_address(), 0))
        address, port = listener.getsockname()
        try:
            self._engine, app = await self._ending.enter_async_context(application(settings, port))
        except SystemExit as error:
            why = "vLLM's reason is in this replica's standard error"
            raise StartError(f"args.engine_args is {settings.engine_args}: {why}") from error
        app.add_api_route("/targets", self._targets, include_in_schema=False)
        listen(listener)
        await self._ending.enter_async_context(_served(http_server(app, settings), listener))
        self._operations_address = f"{address}:{port}"
        return AtRoot(app)

    async def check_health(self) -> None:
        """Raise Unavailable once the engine has died: the replica has to be replaced."""
        if not self._engine.is_alive:
            raise Unavailable(": ".join(filter(None, ["the engine has died", self._engine.failure])))

    def operations_address(self) -> str:
        """Return the host and port of this replica's ``/metrics``."""
        return self._operations_address

    async def _targets(self) -> list[dict[str, Any]]:
        """Return every replica's address, as Prometheus's HTTP service discovery asks for it."""
        replica = serve.get_replica_context()
        handle = serve.get_deployment_handle(replica.deployment, replica.app_name)
        addresses = await handle.broadcast("operations_address").results_async()
        return [{"targets": sorted(addresses), "labels": {"application": replica.app_name}}]

    async def __del__(self) -> None:
        await self._ending.aclose()


@contextlib.asynccontextmanager
async def _served(server: uvicorn.Server, listener: socket.socket) -> AsyncIterator[None]:
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application of a pair, which ``args`` describes with the server's settings."""
    pair: serve.Application = Pair.bind(replica_settings(args))  # type: ignore[attr-defined]
    return pair
