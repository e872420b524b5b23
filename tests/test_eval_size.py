"""Sizes of the models beside what quantization did: on the terminal, the page and in Markdown."""

import html
import io
import re

import pytest
from rich.console import Console

from client.bench.sources.load import BenchOptions
from eval.analysis.run import analyse_run
from eval.report.page import render, render_markdown
from eval.report.size import in_bytes
from eval.report.terminal import print_run
from qconf.run.folder import read_run
from tests.fake_server import FakeServer
from tests.replays import run

SENTENCE = (
    "The quantized model's weights take 700 kB instead of 2.00 MB (0.35 of it): 5.60 bits per weight instead of 16.00, "
    "tensors that are not quantized and scales included."
)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (700_000, "700 kB"),
        (2_258_848, "2.26 MB"),
        (35_276_000_000, "35.3 GB"),
        (1_410_000_000_000, "1,410 GB"),
    ],
)
def test_bytes_are_in_decimal_units(count: int, words: str) -> None:
    assert in_bytes(count) == words


def test_the_cost_stands_beside_the_loss(options: BenchOptions) -> None:
    run(options, FakeServer())
    found = read_run(options.out)
    analysis = analyse_run(found)
    terminal = io.StringIO()
    print_run(Console(file=terminal, width=400), found, analysis)
    assert SENTENCE in terminal.getvalue()
    assert SENTENCE in render_markdown([(found, analysis)])
    page = html.unescape(re.sub(r"\s*<[^>]*>\s*", "|", render([(found, analysis)])))
    assert SENTENCE in page
    for row in ("bits of a quantized value|-|4", "entropy of the quantized values, bits|-|3.71"):
        assert row in re.sub(r"\|+", "|", page)
    assert "weights|2.00 MB|700 kB|" in re.sub(r"\|+", "|", page)


def test_runs_of_servers_that_do_not_tell_sizes_have_none(options: BenchOptions) -> None:
    run(options, FakeServer())
    manifest = options.out / "manifest.json"
    manifest.write_text(re.sub(r',\s*"size": \{[^}]*\}', "", manifest.read_text()))
    found = read_run(options.out)
    assert "bits per weight" not in render([(found, analyse_run(found))])
