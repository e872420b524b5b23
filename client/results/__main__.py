"""Run as a command: ``python -m client.results``."""

from client.results.command import app

app(prog_name="python -m client.results")
