"""The stages that make further variants of the model of ``make real``, and compare all of them in one replay."""

from collections.abc import Iterator
from pathlib import Path

from demo.real.pair import GATE, GATE_CODES, Options, Pair, call
from demo.real.stages import Stage, elapsed_shown
from demo.real.tasks import write_calibration

GROUP_SIZE = 64
"""Weights per scale of the twin of ``make real``, unless it was given another."""


class VariantChain:
    """The stages of ``python -m demo.real.variants``. What ``make real`` made with the same options is kept."""

    def __init__(self, options: Options) -> None:
        self._options, self._pair = options, Pair(options)
        self._task_text, self._runs = options.work / "calibration-tasks.jsonl", options.work / "runs"
        self.page = options.work / "variants.html"

    def stages(self) -> Iterator[Stage]:
        """Yield the stages in order."""
        options, pair = self._options, self._pair
        yield from pair.stages()
        yield Stage(
            "task-text",
            "writing items that are not replayed, as a text for calibration",
            lambda: write_calibration(pair.definitions, self._task_text, options.limit, options.seed),
            [self._task_text],
            seconds=3,
            inputs=[pair.definitions],
            options={"limit": options.limit, "seed": options.seed},
        )
        variants = {"gptq-g64": pair.quantized}
        for name, text, settings in (
            ("gptq-g32", pair.calibration, {"group_size": 32}),
            ("gptq-g64-tasks", self._task_text, {"group_size": GROUP_SIZE}),
            ("rtn-g64", None, {"group_size": GROUP_SIZE}),
            ("gptq-8bit-g64", pair.calibration, {"bits": 8, "group_size": GROUP_SIZE}),
        ):
            variants[name] = options.work / "variants" / name
            yield pair.quantize_stage(name, variants[name], text, **settings)
        yield pair.replay_stage("replay-variants", variants, self._runs)
        runs = [self._runs / name for name in variants]
        yield Stage(
            "report-variants",
            "writing the report of all variants",
            lambda: self._report(runs),
            [self.page],
            seconds=15 * len(runs),
            inputs=[*runs, GATE],
        )

    def _report(self, runs: list[Path]) -> None:
        failed, output = "the report could not be written", ("--gate", GATE, "--out", self.page)
        with elapsed_shown("writing the report"):
            call(failed, "eval", "report", *runs, *output, finished=GATE_CODES)
