"""One comparison as a command, against a real server: the numbers of the reply, colours, files, refusals."""

import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from client import Client, GeneratedToken
from client.compare.growing import GrowingAnswers
from client.compare.tokens import FORK
from demo.local_server import free_port
from qconf.show.quantities import QUANTITIES, QuantityName
from qconf.show.scale import Color
from qconf.show.text import visible_token
from qconf.wire import Comparison
from tests.test_show import Tree, background

PROMPT = "Question: What is a cup made of?\nAnswer:"
CHOICES = ("--continuation", " clay", "--continuation", " glass", "--label", "0")
PLAIN: dict[str, str] = {}
IN_COLOR = {"FORCE_COLOR": "1", "COLORTERM": "truecolor"}
COLORED = re.compile(r"\x1b\[38;2;[\d;]+;48;2;(\d+;\d+;\d+)m")
ERASED = "\x1b[2K"
NUMBER = r"-?\d+\.\d+|%|(?<= )-(?=[ %]|$)"


def command(
    *words: str, stdin: bytes = b"", environment: Mapping[str, str] = PLAIN
) -> subprocess.CompletedProcess[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "client.compare", *words],
        input=stdin, env=inherited | dict(environment), capture_output=True, check=False, timeout=120,
    )  # fmt: skip


def printed(*words: str, stdin: bytes = b"", environment: Mapping[str, str] = PLAIN) -> str:
    done = command(*words, stdin=stdin, environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def reply(*words: str, stdin: bytes = b"") -> Comparison:
    return Comparison.model_validate_json(printed(*words, "--json", stdin=stdin))


def page(path: Path) -> Tree:
    return Tree(path.read_text(encoding="utf-8"))


@pytest.fixture
def html(tmp_path: Path) -> Path:
    return tmp_path / "page.html"


@pytest.mark.parametrize("name", QUANTITIES)
def test_the_page_has_the_replys_numbers_as_colors(server_url: str, html: Path, name: QuantityName) -> None:
    expected = reply(PROMPT, *CHOICES, "--quantity", name, "--html", str(html), "--url", server_url)
    prompt, *choices = page(html).drawn()
    texts = [expected.prompt, *(each.scores for each in expected.continuations or [])]
    for scores, tokens in zip(texts, [prompt, *choices], strict=True):
        assert scores is not None
        assert [each.text for each in tokens] == [visible_token(token) for token in scores.tokens]
        values = QUANTITIES[name].column(scores)
        styles = ["" if value is None else background(QUANTITIES[name].color(value)) for value in values]
        assert [each.attributes.get("style", "") for each in tokens] == styles
    assert [each.attributes.get("style") for each in prompt].count(None) == 1


def test_a_pipe_gets_the_numbers_as_tables(server_url: str, html: Path) -> None:
    found = printed(PROMPT, *CHOICES, "--html", str(html), "--url", server_url)
    assert "\x1b" not in found
    tokens = page(html).drawn()[0]
    rows = found.split("\nprompt")[1].split("\n\n")[0].splitlines()[3:]
    assert len(rows) == len(tokens) == 13
    for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        lines = token.attributes["title"].splitlines()
        name = lines[0].partition(", token ")[0]
        assert row.split() == [
            str(index),
            *name.split(),
            *re.findall(NUMBER, " ".join([*lines[1:4], lines[4].split(",")[0]])),
        ]
    assert 'No flip: both choose " clay".' in found
    assert "2 scored tokens of the continuations: mean KL" in found


def test_a_terminal_gets_the_pages_colors(server_url: str, html: Path) -> None:
    found = printed(PROMPT, "--html", str(html), "--url", server_url, environment=IN_COLOR)
    styles = {each.attributes["style"] for text in page(html).drawn() for each in text[1:]}
    legend = {each.attributes["style"] for each in page(html).of_class("legend")[0].inside}
    drawn = {background(Color(*map(int, color.split(";")))) for color in COLORED.findall(found)}
    assert drawn == styles | legend
    assert len(styles) > 5
    assert "log-prob" not in found


def test_no_color_is_respected(server_url: str) -> None:
    found = printed(PROMPT, "--url", server_url, environment=IN_COLOR | {"NO_COLOR": "1"})
    assert not COLORED.search(found)
    assert '"Question"' in found


def test_likeliest_tokens(server_url: str) -> None:
    found = printed(PROMPT, "--top", "2", "--url", server_url, environment=IN_COLOR)
    assert '":" 9' in found
    assert COLORED.search(found)


def test_answers_stand_side_by_side_with_their_fork(server_url: str, html: Path) -> None:
    """At such a temperature answers part for certain."""
    words = [PROMPT, "--max-tokens", "24", "--temperature", "3", "--seed", "1", "--ignore-eos", "--url", server_url]
    answers = reply(*words, "--html", str(html)).generation
    assert answers is not None
    assert answers.base is not None
    assert answers.quantized is not None
    assert answers.fork is not None
    assert answers.seed == 1
    drawn = page(html).drawn()[-2:]
    for tokens, answer in zip(drawn, (answers.base, answers.quantized), strict=True):
        assert answer.scores is not None
        assert [each.text for each in tokens] == [visible_token(token) for token in answer.scores.tokens]
        assert [place for place, each in enumerate(tokens) if "class" in each.attributes] == [answers.fork.index]
    found = printed(*words, environment=IN_COLOR)
    assert found.count(FORK) == 2
    assert "The answers part after" in found
    assert "seed 1." in found


def on_terminal(*words: str) -> tuple[str, subprocess.CompletedProcess[bytes]]:
    """Run the command with a terminal as its output; return what it printed there, and how it ended."""
    ours, its = pty.openpty()
    printed = bytearray()

    def read() -> None:
        with suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(ours, 65536):
                printed.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | IN_COLOR | {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    with os.fdopen(its, "wb") as terminal:
        done = subprocess.run(
            [sys.executable, "-m", "client.compare", *words],
            stdout=terminal, stderr=subprocess.PIPE, env=environment, check=False, timeout=120,
        )  # fmt: skip
    reader.join()
    os.close(ours)
    return printed.decode().replace("\r\n", "\n"), done


def test_a_terminal_shows_answers_while_they_come(server_url: str) -> None:
    words = [PROMPT, "--max-tokens", "300", "--temperature", "3", "--seed", "1", "--ignore-eos", "--url", server_url]
    shown, done = on_terminal(*words)
    assert (done.returncode, done.stderr) == (0, b"")
    *frames, last = shown.split(ERASED)
    drawn = [count for frame in frames if (count := len(COLORED.findall(frame)))]
    assert len(set(drawn)) > 2
    assert drawn[0] < drawn[-1]
    assert "The answers part after" in last
    assert "300 tokens, cut at the limit" in last
    shown, done = on_terminal(PROMPT, "--max-tokens", "2", "--generate-from", "w3", "--url", server_url)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: 'generate_from' is 'w3', expected")


def test_growing_answers_show_their_last_lines(server_url: str) -> None:
    growing = GrowingAnswers(QUANTITIES["kl"], None)
    with Client(server_url) as qconf:
        *tokens, _ = qconf.stream_compare(prompt=PROMPT, max_tokens=200, temperature=3, seed=1, ignore_eos=True)
    for token in tokens:
        assert isinstance(token, GeneratedToken)
        growing.add(token)
    console = Console(width=80, height=10, file=StringIO(), record=True)
    console.print(growing)
    lines = console.export_text().splitlines()
    assert len(lines) <= 10
    assert lines[0].split() == ["base", "quantized"]
    for side, name in ((slice(0, 40), "base"), (slice(40, 80), "quantized")):
        text = "".join(token.text for token in tokens if isinstance(token, GeneratedToken) and name in token.models)
        assert "".join(text.split())[-12:] in "".join("".join(line[side] for line in lines).split())


def test_one_models_answer(server_url: str) -> None:
    words = [PROMPT, "--max-tokens", "24", "--generate-from", "quantized", "--stop", "."]
    found = printed(*words, "--url", server_url)
    assert re.search(r"^quantized: 2 tokens, ended, mean KL \d\.\d{4} *$", found, re.MULTILINE)
    assert "base: " not in found
    assert re.search(r"^ clay\. *$", found, re.MULTILINE)


def test_a_chat_is_rendered_with_the_template(server_url: str) -> None:
    plain, chat = (reply("What is a cup made of?", *words, "--url", server_url).prompt for words in ((), ("--chat",)))
    assert plain is not None
    assert chat is not None
    text = "".join(chat.tokens)
    assert "What is a cup made of?" in text
    assert len(text) > len("".join(plain.tokens))


def test_a_prompt_from_standard_input(server_url: str) -> None:
    read = reply("-", "--url", server_url, stdin=f"{PROMPT}\n".encode()).prompt
    given = reply(PROMPT, "--url", server_url).prompt
    assert read is not None
    assert given is not None
    assert read.token_ids == given.token_ids
    done = command("-", "--url", server_url, stdin=b"ab\xff")
    assert (done.returncode, done.stderr) == (2, b"error: standard input is not UTF-8 text: byte 2 is 0xff\n")


REFUSED = [
    pytest.param(["a", "--label", "1"], "error: 'label' needs 'continuations'", id="label"),
    pytest.param(
        ["a", "--variant", "w3"], "error: --variant is 'w3', expected one of the server's: quantized", id="variant"
    ),
    pytest.param(["a", "--html", "/nowhere/page.html"], "error: --html cannot be written: [Errno 2]", id="html"),
    pytest.param(["a", "--url", "localhost"], "error: base_url: expected http://host:port", id="url"),
    pytest.param(["a", "--seed", "1"], "--seed is for answers: expected --max-tokens", id="seed"),
    pytest.param(["a", "--stop", "x", "--seed", "1"], "--seed is for answers: expected --max-tokens", id="stop"),
    pytest.param(["a", "--quantity", "js"], "'js' is not one of 'kl', 'logprob'", id="quantity"),
    pytest.param(["a", "--top", "21"], "error: 'top_logprobs': input should be less than or equal to 20", id="top"),
    pytest.param(["a", "--max-tokens", "2", "--generate-from", "w3"], "'generate_from' is 'w3', expected", id="whose"),
    pytest.param([], "Missing argument", id="nothing"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_wrong_input_is_refused_in_a_sentence(server_url: str, words: list[str], message: str) -> None:
    done = command(*words, *(() if "--url" in words else ("--url", server_url)))
    error = " ".join(done.stderr.decode().replace("│", " ").split())
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in error
    assert "Traceback" not in error


def test_a_server_that_is_away() -> None:
    done = command("a", "--retries", "0", "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: cannot reach http://127.0.0.1:")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("package", ["rich", "typer"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from client.compare.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the package {package}")
    assert done.stderr.endswith("is missing: install qconf with its extra 'compare'\n")


def test_the_command_needs_little() -> None:
    """What the bench needs is not loaded."""
    program = (
        "import sys; import client.compare.command; "
        "sys.exit(str({'numpy', 'pyarrow', 'lm_eval', 'torch'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
