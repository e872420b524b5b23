"""Fixtures of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.local_server import LocalServer, running_server

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    """One real server with the demo pair for the whole session."""
    with running_server("--demo") as live:
        yield live


@pytest.fixture(scope="session")
def server_url(server: LocalServer) -> str:
    """Where the session's server answers."""
    return server.url
