"""Every command of the documentation is run, or says why not.

A page's commands run in order, in a folder that looks like the repository's, against the session's server. After the
language of a block there may be, where no reader sees it: ``not-run="why"``; ``file="NAME"``, for which the page's text
is written to that file first; ``output="of the command"``, for text that the page's commands must have printed;
``exit="2"``, for a gate that is inconclusive because little is replayed here.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from qconf.demo import GATE
from tests.documented import COMMENT, PAGES, ROOT, SHELL, Block, blocks, check, commands, inline_commands

FIRST = (
    "python -m client.bench --url http://localhost:8000 --tasks demo --include-path qconf/demo/tasks --out runs/first"
)
SMALL = "python -m client.bench --url http://localhost:8000 --tasks demo --include-path qconf/demo/tasks --limit 20"
GIVEN: dict[str, dict[str, str]] = {
    "docs/tutorial.md": {"runs/own": FIRST.replace("runs/first", "runs/own")},
    "docs/how-to/judge.md": {"runs/first": f"{SMALL} --out runs/first"},
    "docs/how-to/variants.md": {"runs/w8": f"{SMALL} --out runs/w8", "runs/w4": f"{SMALL} --out runs/w4"},
    "docs/explanation/floor-and-null.md": {
        "runs/first": f"{SMALL} --out runs/first",
        "runs/second": f"{SMALL} --concurrency 4 --out runs/second",
    },
    "docs/runbook.md": {"runs/good": f"{SMALL} --out runs/good"},
}
"""Files that a page presupposes, and the command that makes each."""
ATTRIBUTES = {"not-run", "file", "output", "exit"}
RUN = (*SHELL, "python")
SECONDS = 300
FIELD = re.compile(r'"(\w+)":')

ALL = [block for page in PAGES for block in blocks(page)]
TO_RUN = {
    str(page.relative_to(ROOT)): run
    for page in PAGES
    if (run := [each for each in blocks(page) if each.language in RUN and "not-run" not in each.attributes])
}
NOT_RUN = [block for block in ALL if "not-run" in block.attributes]


class Workplace:
    """A folder in which a page's commands run: a copy of the repository that they may write to."""

    replays: ClassVar[dict[str, str]] = {}
    """For each replay that a page has made, the command that copies its folder and prints what it printed."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.printed = ""
        self._url = url
        for each in ROOT.iterdir():
            if not each.name.startswith(".") and each.name not in ("runs", "build"):
                (folder / each.name).symlink_to(each)
        shutil.copy(GATE, folder / "gate.toml")

    def run(self, text: str, language: str = "console", exit_code: int = 0) -> None:
        """Run a block. Every command must succeed; the last may have another exit code."""
        if language == "python":
            self._execute([sys.executable, "-c", self._here(text)])
            return
        made: dict[str, str] = {}
        lines = COMMENT.sub("", text.replace("\\\n", " ")).splitlines()
        script = "\n".join(self._replay_once(line, made) for line in lines)
        self._execute(["bash", "-euo", "pipefail", "-c", self._here(script)], exit_code)
        self.replays.update(made)

    def _replay_once(self, line: str, made: dict[str, str]) -> str:
        """Return what to execute for a line: a page that repeats another's replay gets a copy of its run."""
        found = re.fullmatch(r"(python -m client\.bench .*)--out (\S+)(.*?)\s*", line)
        if found is None:
            return line
        before, out, after = found.groups()
        command = before + after
        if command in self.replays:
            return self.replays[command].replace("$OUT", out)
        run = self.folder / out
        made[command] = f"mkdir -p $(dirname $OUT); cp -r {run} $OUT; cat {run}.txt"
        return f"mkdir -p $(dirname {out}); {line} | tee {out}.txt"

    def _here(self, text: str) -> str:
        return text.replace("localhost:8000", urlsplit(self._url).netloc)

    def _execute(self, command: list[str], exit_code: int = 0) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "PYTHONPATH": str(ROOT), "URL": self._url, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, cwd=self.folder, env=os.environ | own, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == exit_code, f"{command[-1]}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Warning" not in done.stderr
        self.printed += done.stdout + done.stderr


@pytest.fixture
def workplace(tmp_path: Path, server_url: str) -> Workplace:
    return Workplace(tmp_path, server_url)


def parts(text: str, shown: Block) -> set[str]:
    """Return what must be in the output that a block shows: the fields of replies, and lines of other text."""
    return set(FIELD.findall(text)) if shown.attributes["output"] == "curl" else set(skeleton(text))


def skeleton(text: str) -> Iterator[str]:
    """Yield lines without numbers, and without the marks and spaces that depend on them."""
    for line in text.splitlines():
        yield re.sub(r"[<>]?\s*[-+]?\d[\d.,]*(e-\d+)?", "#", line.replace("*", "")).replace(" ", "").replace("-#", "#")


@pytest.mark.parametrize("page", TO_RUN)
def test_commands_run(page: str, workplace: Workplace) -> None:
    for command in GIVEN.get(page, {}).values():
        workplace.run(command)
    for block in blocks(ROOT / page):
        if name := block.attributes.get("file"):
            (workplace.folder / name).unlink(missing_ok=True)
            (workplace.folder / name).write_text(block.text, encoding="utf-8")
    for block in TO_RUN[page]:
        workplace.run(block.text, block.language, int(block.attributes.get("exit", 0)))
    for block in blocks(ROOT / page):
        if "output" in block.attributes:
            missing = parts(block.text, block) - parts(workplace.printed, block)
            assert not missing, f"{block}: nothing printed is like {missing}"


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_commands_that_are_not_run_have_options_that_exist(block: Block) -> None:
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for words in commands(block.text):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_within_sentences_have_options_that_exist(page: Path) -> None:
    for command in inline_commands(page):
        for words in commands(command):
            check(words)


def test_attributes_are_known() -> None:
    for block in ALL:
        assert set(block.attributes) <= ATTRIBUTES, block
    assert all(block.language in RUN for block in NOT_RUN)


def test_a_command_that_fails_is_noticed(workplace: Workplace) -> None:
    with pytest.raises(AssertionError, match="exit code 64"):
        workplace.run("python -m eval gate runs/nowhere --config gate.toml")
    with pytest.raises(AssertionError, match="exit code 22"):
        workplace.run("curl -sf http://localhost:8000/nowhere | cat")


WRONG = {
    "python -m client.bench --wrong 1": "--wrong",
    "python -m client.results export": "no such command",
    "python -m eval gate runs/first --limit 3": "--limit",
    "QCONF_PORT=1 python -m server --demo \\\n --max-model-length-of-all 3": "server --demo",
    "docker run --gpus all qconf-server --modl x": "docker run",
    "true && qconf-quantize MODEL OUT --wrong": "qconf-quantize",
    "python -m eval.nowhere": "no such module",
    "make cake # now": "no such target",
    "pip install '.[cake]'": "no such extra: cake",
}


@pytest.mark.parametrize("script", WRONG)
def test_options_that_do_not_exist_are_noticed(script: str) -> None:
    *right, last = commands(script)
    for words in right:
        check(words)
    with pytest.raises(ValueError, match=WRONG[script]):
        check(last)
