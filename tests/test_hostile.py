"""A real server and whoever means it no good: a short form of ``python -m benchmarks.hostile``.

The cases are in benchmarks/hostile/. Times are not measured here.
"""

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.hostile.__main__ import KEY, strangers
from benchmarks.hostile.bodies import bodies
from benchmarks.hostile.cases import Case
from benchmarks.hostile.connections import connections
from benchmarks.hostile.mutants import mutants
from benchmarks.hostile.openapi import explore
from benchmarks.hostile.sending import Outcome, send_all
from benchmarks.hostile.slow import slow_clients
from benchmarks.hostile.watch import State, state
from demo.local_server import LocalServer, running_server

FAMILIES = 16


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with a key, which nothing here has harmed before."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"hostile = {KEY}\n")
    with running_server("--demo", "--api-key-file", str(file), "--log-level", "WARNING", "--shadow-rate", "1") as live:
        yield live


@pytest.fixture(scope="module")
def before(guarded: LocalServer) -> State:
    """What the server holds at first."""
    return state(guarded, KEY)


@pytest.fixture(autouse=True)
def _unharmed(guarded: LocalServer, before: State) -> Iterator[None]:
    yield
    after = state(guarded, KEY)
    assert guarded.process.poll() is None
    assert (after.tracebacks, after.in_flight) == (0, 0), guarded.log.read_text()[-3000:]
    assert after.descriptors <= before.descriptors


def wrong(outcomes: list[Outcome]) -> list[str]:
    return [f"{each.case.family}, {each.case.name}: {each.wrong}" for each in outcomes if each.wrong]


def test_the_catalogue_while_slow_clients_hold_connections(guarded: LocalServer) -> None:
    cases = [*bodies(KEY), *connections(KEY)]
    assert len({case.family for case in cases}) == FAMILIES
    assert len(cases) > 2000

    async def sent() -> list[Outcome]:
        async with slow_clients(guarded.url, 20):
            return await send_all(guarded.url, cases)

    assert wrong(asyncio.run(sent())) == []


def test_whoever_has_no_key_gets_nothing_else_to_know(guarded: LocalServer) -> None:
    assert wrong(asyncio.run(send_all(guarded.url, list(strangers())[::5]))) == []


def test_random_edits_of_valid_requests(guarded: LocalServer) -> None:
    outcomes = asyncio.run(send_all(guarded.url, mutants(seed=1, count=300, key=KEY)))
    assert wrong(outcomes) == []
    assert len({reply.status for each in outcomes for reply in each.replies}) >= 4


def test_schemathesis_finds_nothing_in_the_openapi_document(guarded: LocalServer) -> None:
    explored = explore(guarded.url, examples=10, seed=1, key=KEY)
    assert explored.failures == 0, explored.printed
    assert explored.phases == ["coverage", "fuzzing", "stateful"]
    assert explored.cases > 500


def test_what_is_wrong_is_seen() -> None:
    """The judge of the other tests is not lenient."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 10\r\n\r\nTraceback ")
        writer.close()

    async def sent() -> list[Outcome]:
        async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            cases = [Case("a", "b", b"GET / HTTP/1.1\r\n\r\n", frozenset({status})) for status in (400, 404)]
            return await send_all(f"http://127.0.0.1:{port}", cases)

    shown, other = wrong(asyncio.run(sent()))
    assert "the server's inside" in shown
    assert "400, expected 404" in other
