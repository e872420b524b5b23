"""What a server has before and after: memory, descriptors, threads, work in flight, tracebacks, blocks of its loop."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from demo.local_server import LocalServer

SETTLED_SECONDS = 30
IN_FLIGHT = re.compile(r"^qconf_(?:requests|sequences|tokens)_in_flight (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """What a server and its engine's processes hold."""

    mebibytes: float
    descriptors: int
    threads: int
    in_flight: float
    tracebacks: int


def state(server: LocalServer, key: str = "") -> State:
    """Return what it holds once nothing is in flight and no connection is open, or after a while."""
    deadline = time.monotonic() + SETTLED_SECONDS
    process = psutil.Process(server.process.pid)
    while (in_flight := _in_flight(server, key)) or _connections(process, server):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    family = [process, *process.children(recursive=True)]
    return State(
        mebibytes=sum(each.memory_info().rss for each in family) / 2**20,
        descriptors=sum(each.num_fds() for each in family),
        threads=sum(each.num_threads() for each in family),
        in_flight=in_flight,
        tracebacks=server.log.read_text(errors="replace").count("Traceback"),
    )


def _in_flight(server: LocalServer, key: str) -> float:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    metrics = httpx.get(f"{server.url}/metrics", headers=headers, timeout=60).text
    return sum(map(float, IN_FLIGHT.findall(metrics)))


def _connections(process: psutil.Process, server: LocalServer) -> int:
    port = urlsplit(server.url).port
    return sum(each.laddr.port == port and each.status != psutil.CONN_LISTEN for each in process.net_connections("tcp"))


@dataclass(frozen=True)
class Blocked:
    """Longest times in seconds in which the event loop did nothing else.

    ``own``: processor time of the loop's own thread. ``late``: how late it was, at most the processor time of the whole
    process, some of which may have been spent on other threads without keeping the loop from running.
    """

    own: float
    late: float


def blocked(lateness: Path, since: float) -> Blocked:
    """Return the longest blocks since then."""
    lines = [list(map(float, line.split())) for line in lateness.read_text().splitlines()]
    beats = [(min(late, own), min(late, computed)) for at, late, computed, own in lines if at > since]
    return Blocked(max((own for own, _ in beats), default=0.0), max((late for _, late in beats), default=0.0))
