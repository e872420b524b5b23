"""The stages from packages to a verdict about a real model's GPTQ twin."""

import subprocess
import sys
from collections.abc import Iterator

from demo.real.pair import GATE, GATE_CODES, Options, Pair, call
from demo.real.stages import Stage, StageError, elapsed_shown


class Chain:
    """The stages of ``make real``; everything that they make is in the work folder."""

    def __init__(self, options: Options) -> None:
        self._pair = Pair(options)
        self._run = options.work / "run"
        self.page, self.verdict = options.work / "report.html", options.work / "verdict.txt"

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order; a model of the user's own needs no package."""
        yield from self._pair.stages()
        yield self._pair.replay_stage("replay", {"quantized": self._pair.quantized}, self._run)
        yield Stage(
            "report",
            "writing report and verdict",
            self._report,
            [self.page, self.verdict],
            seconds=15,
            inputs=[self._run, GATE],
        )

    def _report(self) -> None:
        with elapsed_shown("writing the report"):
            call("the report could not be written", "eval", "report", self._run, "--out", self.page)
        command = [sys.executable, "-m", "eval", "gate", str(self._run), "--config", str(GATE)]
        with elapsed_shown("judging the run"):
            judged = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if judged.returncode not in GATE_CODES:
            raise StageError("the gate could not judge the run")
        self.verdict.write_text(judged.stdout, encoding="utf-8")
