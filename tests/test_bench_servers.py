"""A replay on several servers: the run is that of one, and a server that goes away loses nothing."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from client.bench.command import app
from client.bench.items import TaskError
from client.bench.servers import PROBE_SECONDS, Servers
from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions
from client.errors import ConnectionFailed
from client.routing import CONTEXT_HEADER, preferred
from qconf.run.folder import read_run
from tests.fake_server import MODELS, SERVER, FakeServer, Reply, error
from tests.replays import run
from tests.test_bench_pace import simulated

ONE, TWO, THREE = URLS = [f"http://qconf-{number}:8000" for number in range(3)]
FILES = ("items.parquet", "results.json")


def compared(fake: FakeServer) -> list[tuple[str, str]]:
    """Return the server that each comparison was sent to, and its context."""
    asked = (each for each in fake.received if each.url.path == "/compare")
    return [(str(each.url).removesuffix("/compare"), each.headers[CONTEXT_HEADER]) for each in asked]


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture
def spread(options: BenchOptions) -> BenchOptions:
    """Return the options of a replay on three servers, after one on a single server."""
    run(replace(options, out=options.out.with_name("one")), FakeServer())
    return replace(options, urls=URLS)


def is_that_of_one(options: BenchOptions) -> bool:
    return content(options.out) == content(options.out.with_name("one"))


def test_each_request_goes_to_the_server_of_its_context_and_the_run_is_that_of_one(spread: BenchOptions) -> None:
    fake = FakeServer()
    failed, text = run(spread, fake)
    assert failed == 0
    assert is_that_of_one(spread)
    sent = compared(fake)
    assert len(sent) == 43
    assert [url for url, _ in sent] == [preferred(context, URLS)[0] for _, context in sent]
    assert {url for url, _ in sent} == set(URLS)
    assert read_run(spread.out).manifest.url == URLS
    assert f"{ONE}, {TWO}, {THREE} (qconf" in text


@pytest.mark.parametrize(
    "gone",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ReadError("reset"),
        lambda: httpx.ReadTimeout("late"),
        lambda: error(503, "draining", headers={"retry-after": "30"}),
        lambda: error(502, "no upstream"),
    ],
    ids=["refused", "reset", "late", "draining", "proxy"],
)
def test_the_requests_of_a_server_that_goes_away_go_to_the_next(
    spread: BenchOptions, gone: Callable[[], Exception | Reply]
) -> None:
    answered = 0

    def hook(request: httpx.Request) -> Reply | None:
        nonlocal answered
        answered += request.url.path == "/compare"
        if answered > 10 and str(request.url).startswith(TWO):
            if isinstance(reply := gone(), Exception):
                raise reply
            return reply
        return None

    fake = FakeServer(hook)
    failed, _ = run(spread, fake)
    assert failed == 0
    assert is_that_of_one(spread)
    moved = [context for url, context in compared(fake) if preferred(context, URLS)[0] == TWO and url != TWO]
    assert moved
    assert all((preferred(context, URLS)[1], context) in compared(fake) for context in moved)
    # What was in flight there found out, at most.
    assert len(compared(fake)) <= 43 + spread.concurrency


class Group:
    """Three servers, of which some are down, with the client's part of a replay."""

    def __init__(self, retries: int = 0) -> None:
        self.down: set[str] = set()
        self.busy = 0
        self.fake = FakeServer(self._answer)
        self.servers = Servers(URLS, concurrency=4, timeout=10, retries=retries, transport=self.fake.transport)

    def _answer(self, request: httpx.Request) -> Reply | None:
        if any(str(request.url).startswith(url) for url in self.down):
            raise httpx.ConnectError("refused")
        if request.url.path == "/compare" and self.busy:
            self.busy -= 1
            return error(429, "enough to do", headers={"retry-after": "7"})
        return None

    async def send(self) -> list[str]:
        """Send 20 requests of other contexts, the same each time, and return where they went."""
        before = len(compared(self.fake))
        for number in range(20):
            await self.servers.compare(prompt=[number] * 16)
        return [url for url, _ in compared(self.fake)[before:]]


def test_a_server_that_went_away_is_left_out_until_it_is_ready() -> None:
    async def main() -> None:
        group = Group()
        async with group.servers:
            usual = await group.send()
            assert usual.count(TWO) > 3
            group.down.add(TWO)
            assert (await group.send()).count(TWO) == 1
            await asyncio.sleep(10 * PROBE_SECONDS)
            assert (await group.send()).count(TWO) == 0
            group.down.clear()
            await asyncio.sleep(PROBE_SECONDS + 1)
            assert await group.send() == usual

    simulated(main())


def test_where_no_server_answers_all_are_tried_with_pauses() -> None:
    async def main() -> None:
        group = Group(retries=3)
        async with group.servers:
            group.down.update(URLS)
            with pytest.raises(ConnectionFailed):
                await group.servers.compare(prompt="The sky")
            assert sorted(url for url, _ in compared(group.fake)) == sorted(4 * URLS)
            assert not await group.servers.ready()
            group.down.remove(THREE)
            await group.servers.compare(prompt="The sky")
            assert await group.servers.ready()

    simulated(main())


def test_a_request_waits_for_a_server_that_is_overloaded() -> None:
    async def main() -> None:
        group = Group(retries=3)
        async with group.servers:
            group.busy = 2
            await group.servers.compare(prompt="The sky")
            (only,) = {url for url, _ in compared(group.fake)}
            assert len(compared(group.fake)) == 3
            assert asyncio.get_running_loop().time() > 2 * 7
            assert only in URLS

    simulated(main())


def test_a_replay_ends_where_no_server_answers_and_is_resumed_on_others(spread: BenchOptions) -> None:
    left = 20

    def hook(request: httpx.Request) -> None:
        nonlocal left
        left -= request.url.path == "/compare"
        if left < 0:
            raise httpx.ConnectError("refused")

    with pytest.raises(Stopped, match=r"no server answers any more: .* items are kept .* --resume to continue"):
        run(spread, FakeServer(hook))
    fake = FakeServer()
    assert run(replace(spread, urls=[ONE], resume=True), fake)[0] == 0
    assert len(fake.bodies("/compare")) == 23
    assert is_that_of_one(spread)


def test_servers_of_other_models_are_refused(spread: BenchOptions) -> None:
    other = [MODELS[0], MODELS[1] | {"created": 99, "digest": "new"}]

    def hook(request: httpx.Request) -> Reply | None:
        if request.url.path != "/v1/models" or not str(request.url).startswith(THREE):
            return None
        body = {"object": "list", "data": other, "server": SERVER | {"device": "cuda"}}
        return httpx.Response(200, json=body)

    fake = FakeServer(hook)
    with pytest.raises(
        TaskError,
        match=rf"^{ONE} and {THREE} do not serve the same models: server\.device is 'cpu' and 'cuda'; "
        r"quantized\.digest is 'digest of quantized' and 'new'$",
    ):
        run(spread, fake)
    assert compared(fake) == []


def test_texts_of_tokens_come_from_a_server_that_is_there(spread: BenchOptions, tmp_path: Path) -> None:
    corpus = tmp_path / "text.txt"
    corpus.write_text("abcdefgh" * 200, encoding="utf-8")
    wanted = False

    def hook(request: httpx.Request) -> None:
        nonlocal wanted
        wanted |= request.url.path == "/compare"
        if wanted and not str(request.url).startswith(THREE):
            raise httpx.ConnectError("refused")

    options = replace(spread, tasks=[], corpora=[corpus], window=64, expected_counts=True)
    assert run(options, FakeServer(hook))[0] == 0
    assert (options.out / "expected_counts.parquet").exists()


def test_a_server_that_is_named_twice_is_refused() -> None:
    done = CliRunner().invoke(app, ["--tasks", "x", "--url", ONE, "--url", f"{ONE}/"])
    assert done.exit_code == 2
    assert f"--url is {ONE} twice: expected each server once" in " ".join(done.output.replace("│", " ").split())
