"""Fixtures of all tests.

Engines run without torch.compile, which would add seconds to each of many starts; tests/test_engine.py has it on.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from client.bench.sources.load import BenchOptions
from demo.local_server import LocalServer, running_server
from tests.browser import browsing, watched
from tests.replays import replay_options

os.environ["TORCHDYNAMO_DISABLE"] = "1"

FIXTURES = Path(__file__).parent / "fixtures"
EXACT = ("--demo", "--dtype", "float32", "--num-gpu-blocks-override", "41", "--block-size", "32")
"""Float32, where sums in another order do not move a choice, and room for 1,312 tokens in the KV cache: little more
than one sequence may have."""


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    """Start one real server with the demo pair for the whole session."""
    with running_server("--demo") as live:
        yield live


@pytest.fixture(scope="session")
def exact() -> Iterator[LocalServer]:
    """Start a server in float32 with a small KV cache."""
    with running_server(*EXACT) as live:
        yield live


@pytest.fixture(scope="session")
def server_url(server: LocalServer) -> str:
    """Return the URL of the session's server."""
    return server.url


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    """Return the options of a replay of two small tasks, for a stand-in of the server."""
    return replay_options(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser for a module: while it runs, nothing that is awaited can run in the thread."""
    with browsing() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server_url: str) -> Iterator[Page]:
    """Open the page of the session's server; any error in it fails the test."""
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        problems = watched(page)
        page.goto(server_url)
        expect(page.locator("#base-model")).to_contain_text("pair/base")
        yield page
        assert problems == []
