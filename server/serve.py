"""Serve the application of a pair over HTTP until the server is stopped."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Iterator, Sequence

import uvicorn
from fastapi import FastAPI

from server.api.connection import Connection
from server.api.work import Serving
from server.application import application
from server.errors import StartError
from server.settings import Settings

logger = logging.getLogger(__name__)
WATCH_SECONDS = 0.1
LATE_SECONDS = 5
"""What requests get after the time of grace, to be told that they were given up."""
ENGINE_DIED = 1
IDLE_CONNECTION_SECONDS = 75
"""Then an HTTP connection without a request is closed. Load balancers keep theirs for 60: the side that sends must be
first to close, or requests meet a closed connection."""
TCP_PROBES = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""Options of TCP keepalive, in seconds and probes: a client whose machine has vanished is noticed after 90 seconds."""


async def serve(settings: Settings, listeners: Sequence[socket.socket]) -> int:
    """Run the server; returns the exit code. StartError says why the pair cannot be served."""
    started = time.perf_counter()
    if settings.api_key_file is None and not _is_loopback(settings.host):
        logger.warning("anyone who can reach %s can use the server: --api-key-file asks for keys", settings.host)
    operations_port = None if settings.operations_port is None else listeners[1].getsockname()[1]
    async with application(settings, operations_port) as (engine, app):
        serving: Serving = app.state.serving
        server = http_server(app, settings)
        for listener in listeners:
            listen(listener)
        scheme = "http" if settings.ssl_certfile is None else "https"
        tasks = [
            asyncio.create_task(_report(server, listeners, started, scheme)),
            asyncio.create_task(_stop(server, serving, settings.grace_seconds)),
        ]
        try:
            await server.serve(sockets=list(listeners))
        finally:
            for task in tasks:
                task.cancel()
        if not engine.is_alive:
            logger.error(": ".join(filter(None, ["the engine has died", engine.failure])))
            return ENGINE_DIED
    return 0


def http_server(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Return the server of the application for sockets of one's own."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            server_header=False,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
            log_config=None,
            access_log=False,
            timeout_keep_alive=IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=settings.grace_seconds + LATE_SECONDS,
        )
    )


async def _report(server: uvicorn.Server, listeners: Sequence[socket.socket], started: float, scheme: str) -> None:
    """Report when connections are accepted."""
    while not server.started:
        await asyncio.sleep(WATCH_SECONDS)
    addresses = ["{}://{}:{}".format(scheme, *listener.getsockname()[:2]) for listener in listeners]
    logger.info("ready on %s after %.0f s", " and ".join(addresses), time.perf_counter() - started)


async def _stop(server: uvicorn.Server, serving: Serving, grace_seconds: float) -> None:
    """End the server when its engine dies, and all work when a server that is being stopped has had its time."""
    service = serving.service
    while service.engine.is_alive and not server.should_exit:
        await asyncio.sleep(WATCH_SECONDS)
    server.should_exit = True
    service.stop_admitting()
    await asyncio.sleep(grace_seconds if service.engine.is_alive else 0)
    serving.ended.set()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def bound_sockets(settings: Settings) -> Iterator[list[socket.socket]]:
    """Bind the addresses, that for operators last, before minutes are spent on loading.

    They listen only once the server is ready.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(bound(settings.host, settings.port))]
        if settings.operations_port is not None:
            sockets.append(stack.enter_context(bound(settings.operations_host, settings.operations_port)))
        yield sockets


def bound(host: str, port: int) -> socket.socket:
    """Bind an address. StartError where that cannot be."""
    # asyncio sends without delay (TCP_NODELAY) only where the protocol is named.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, proto=socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in TCP_PROBES.items():
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def listen(listener: socket.socket) -> None:
    """Listen. The kernel lets two servers bind one address while neither listens: the second one to get here fails."""
    try:
        listener.listen()
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}") from error
