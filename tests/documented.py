"""Commands in the documentation: where they are, and whether their options exist."""

import re
import shlex
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import typer
from pydantic_settings import CliApp
from typer.core import TyperGroup

from client.bench.command import app as bench
from client.compare.command import app as compare
from client.results.command import app as results
from client.trace.command import app as trace
from demo.real.command import app as real
from demo.real.command import variants_app as real_variants
from eval.command import app as evaluation
from server.quantize.command import app as quantize
from server.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}/README.md" for name in ("demo", "deploy", "benchmarks")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
]
SHELL = ("console", "sh", "bash")
FENCE = re.compile(r"^```(\S+)(.*)\n(?s:(.*?))^```$", re.MULTILINE)
ATTRIBUTE = re.compile(r'\s([a-z-]+)="([^"]+)"')
INLINE = re.compile(r"`((?:python -m|qconf-\w+|make) [^`]+)`")
COMMENT = re.compile(r"(^|\s)#\s.*$", re.MULTILINE)
TYPER = {
    "client.bench": bench,
    "client.compare": compare,
    "client.results": results,
    "client.trace": trace,
    "demo.real": real,
    "demo.real.variants": real_variants,
    "eval": evaluation,
    "server.quantize": quantize,
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. Attributes stand after the language, where no reader sees them."""

    page: Path
    line: int
    language: str
    attributes: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], dict(ATTRIBUTE.findall(found[2])), found[3])
        for found in FENCE.finditer(text)
    ]


def inline_commands(page: Path) -> list[str]:
    """Return the commands within sentences."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(found.split()) for found in INLINE.findall(prose)]


def commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each command of a script, without redirections and variables that are set for it."""
    lexer = shlex.shlex(COMMENT.sub("", script.replace("\\\n", " ")), posix=True, punctuation_chars=";<>|&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for token in [*lexer, ";"]:
        if not set(token) <= set(";|&\n"):
            words.append(token)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        if words:
            yield words
        words = []


def check(words: Sequence[str]) -> None:
    """Raise ValueError if a command has an option, a module, a target or an extra that does not exist."""
    try:
        _check(words)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            return  # as after --help
        raise ValueError(f"{shlex.join(words)}: {error}") from error


def _check(words: Sequence[str]) -> None:
    match words:
        case ["python", "-m", name, *rest] if name in TYPER:
            _parse_typer(TYPER[name], rest)
        case ["python", "-m", "server", *rest] | ["qconf-server", *rest]:
            _parse_server(rest)
        case ["docker", "run", *rest] if image := [word for word in rest if word.startswith("qconf-server")]:
            _parse_server(rest[rest.index(image[0]) + 1 :])
        case ["qconf-quantize", *rest]:
            _parse_typer(quantize, rest)
        case ["python", "-m", module, *_] if find_spec(module) is None:
            raise ValueError("no such module")
        case ["make", target, *_] if target not in _targets():
            raise ValueError("no such target")
        case ["pip", "install", *rest]:
            for extra in re.findall(r"\.\[(\w+)\]", " ".join(rest)):
                if extra not in _extras():
                    raise ValueError(f"no such extra: {extra}")


def _parse_typer(app: typer.Typer, words: Sequence[str]) -> None:
    command = typer.main.get_command(app)
    if isinstance(command, TyperGroup) and words:
        name, *words = words
        if name not in command.commands:
            raise ValueError(f"no such command: {name}")
        command = command.commands[name]
    context = command.context_class(command, info_name=command.name)
    command.make_parser(context).parse_args(args=list(words))


def _parse_server(words: Sequence[str]) -> None:
    settings = CliApp.run(Settings, cli_args=list(words))
    _engine_parser()(settings.engine_args)


@cache
def _engine_parser() -> Callable[[list[str]], Namespace]:
    from server.engine.engine import parse_engine_args  # imports vLLM

    return parse_engine_args


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@cache
def _extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])
