"""API keys: their file, and what a server with keys answers to whom."""

import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from server.api.keys import RELOAD_SECONDS, Keys, KeysMiddleware, read_keys
from server.api.operations_port import PROBES
from server.errors import StartError
from server.monitoring.service_metrics import PRINCIPAL
from server.scoring.quotas import Quotas

ALICE, BOB = "alices-key-0123456789", "bobs-key-0123456789"


class Clock:
    """A clock that tests advance."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\nalice = {ALICE}\n\nbob={BOB}\n")
    return path


async def whoami(scope: Scope, _: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(scope.get(PRINCIPAL)).encode()})


@pytest.fixture
async def http(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(KeysMiddleware(whoami, Keys(file, Quotas()), PROBES))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize(("key", "name"), [(ALICE, "alice"), (BOB, "bob")])
async def test_a_key_is_its_owners(http: httpx.AsyncClient, key: str, name: str) -> None:
    for scheme in ("Bearer", "bearer"):
        reply = await http.get("/compare", headers={"authorization": f"{scheme} {key}"})
        assert (reply.status_code, reply.text) == (200, name)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {ALICE}", f"Bearer {ALICE}x", f"Bearer {ALICE[:-1]}", ALICE]
)
async def test_whoever_has_none_is_told_so(http: httpx.AsyncClient, header: str | None) -> None:
    reply = await http.get("/compare", headers={} if header is None else {"authorization": header})
    assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert ALICE not in reply.text


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_probes_need_no_key(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 200
    assert (await http.get(f"{path}/../compare")).status_code == 401


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no key"),
        ("alice", r"line 1: expected NAME = KEY"),
        ("alice = short", "line 1: the key of alice is shorter than 16 characters"),
        (f"\nal ice = {ALICE}", "line 2: expected NAME = KEY"),
        (f"alice = {ALICE}\nalice = {BOB}", "line 2: alice has a key already"),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_keys(path)
    with pytest.raises(StartError, match=f"--api-key-file .*{message}"):
        Keys(path, Quotas())
    with pytest.raises(StartError, match="No such file"):
        Keys(tmp_path / "nothing", Quotas())


def test_a_changed_file_is_read_again_and_a_broken_one_keeps_the_keys(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    keys = Keys(file, Quotas(), clock)
    carol = "carols-key-0123456789"
    file.write_text(f"carol = {carol}\n")
    assert keys.principal(carol) is None
    clock.now += RELOAD_SECONDS
    assert (keys.principal(carol), keys.principal(ALICE)) == ("carol", None)
    with caplog.at_level(logging.INFO):
        file.write_text("nonsense")
        clock.now += RELOAD_SECONDS
        assert keys.principal(carol) == "carol"
        os.remove(file)
        clock.now += RELOAD_SECONDS
        assert keys.principal(carol) == "carol"
    assert "keys of before stay valid" in caplog.text
    assert carol not in caplog.text
