"""A chain of stages: what a stage made is kept until its options or the content of its inputs change."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from client.bench.display.table import duration

ELAPSED_EVERY = 10.0
MACHINE = "two idle cores with AVX512-BF16"


class StageError(Exception):
    """A stage failed; the message is one sentence for the user."""


@dataclass(frozen=True)
class Stage:
    """One step of the chain. ``make`` writes ``outputs``; ``seconds`` is a rough estimate for MACHINE.

    What an interrupted stage left is removed before the stage runs again, unless it is ``resumable``.
    """

    name: str
    what: str
    make: Callable[[], None]
    outputs: Sequence[Path]
    seconds: float
    inputs: Sequence[Path] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    resumable: bool = False

    def digest(self) -> str:
        """Return a digest of everything that the outputs depend on."""
        total = hashlib.sha256(json.dumps([self.name, self.options], sort_keys=True).encode())
        for path in self.inputs:
            for file in _files(path):
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                total.update(f"\n{file.relative_to(path.parent)} {content}".encode())
        return total.hexdigest()


def run_stages(stages: Sequence[Stage], folder: Path) -> None:
    """Run the stages that are not up to date, in order; ``folder`` gets a stamp for each."""
    folder.mkdir(parents=True, exist_ok=True)
    outdated = {stage.name for stage in stages if not _is_kept(stage, folder)}
    if outdated:
        print(f"Estimates are rough, and for {MACHINE}.", flush=True)
    for number, stage in enumerate(stages, 1):
        begin = f"[{number}/{len(stages)}] {stage.name}: "
        if _is_kept(stage, folder):
            print(f"{begin}kept", flush=True)
            continue
        later = sum(each.seconds for each in stages[number:] if each.name in outdated)
        after = f", and {duration(later)} for the rest" if later else ""
        print(f"{begin}{stage.what} (about {duration(stage.seconds)}{after}) ...", flush=True)
        started = time.monotonic()
        _make(stage, folder)
        print(f"{begin}done in {duration(time.monotonic() - started)}", flush=True)


@contextmanager
def elapsed_shown(what: str) -> Iterator[None]:
    """Print every 10 seconds how long it has taken, while something runs that prints nothing itself."""
    started, ended = time.monotonic(), threading.Event()

    def print_elapsed() -> None:
        while not ended.wait(ELAPSED_EVERY):
            print(f"{what}: {duration(time.monotonic() - started)} so far", flush=True)

    thread = threading.Thread(target=print_elapsed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _make(stage: Stage, folder: Path) -> None:
    stamp, digest = _stamp(stage, folder), stage.digest()
    if not (stage.resumable and _read(stamp).get("digest") == digest):
        for output in stage.outputs:
            _remove(output)
    stamp.write_text(json.dumps({"digest": digest, "done": False}) + "\n", encoding="utf-8")
    stage.make()
    stamp.write_text(json.dumps({"digest": digest, "done": True}) + "\n", encoding="utf-8")


def _is_kept(stage: Stage, folder: Path) -> bool:
    there = all(path.exists() for path in (*stage.inputs, *stage.outputs))
    return there and _read(_stamp(stage, folder)) == {"digest": stage.digest(), "done": True}


def _stamp(stage: Stage, folder: Path) -> Path:
    return folder / f"{stage.name}.json"


def _read(stamp: Path) -> dict[str, object]:
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # missing, or cut off when the machine stopped
        return {}
    return found if isinstance(found, dict) else {}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    else:
        yield path
