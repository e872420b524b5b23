"""The paper's table, with the authors' figures next to it for their pairs."""

from pathlib import Path

import pytest

from eval.analysis.run import RunAnalysis, analyse_run
from eval.report.page import render
from eval.report.paper import paper_rows
from qconf.run.folder import Manifest, read_run
from tests.synthetic_run import items, write
from tests.test_results import manifest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunAnalysis]:
    ragged = [*items("ragged", 20, 3, choices=2), *items("ragged", 20, 4, choices=3)]
    folder = write(
        tmp_path_factory.mktemp("runs") / "run", [*items("boolq", 60, 1, choices=2), *items("mine", 60, 2), *ragged]
    )
    return folder, analyse_run(folder, resamples=100)


def of_pair(base: str, quantized: str) -> Manifest:
    found = manifest()
    assert found.subject is not None
    models = found.subject.models
    names = {"base": base, "quantized": quantized}
    renamed = models.model_copy(
        update={role: getattr(models, role).model_copy(update={"root": name}) for role, name in names.items()}
    )
    return found.model_copy(update={"subject": found.subject.model_copy(update={"models": renamed})})


def test_rows_have_the_runs_numbers_in_percent(run: tuple[Path, RunAnalysis]) -> None:
    _, analysis = run
    rows = paper_rows(of_pair("bigscience/bloom-7b1", "iproskurina/bloom-7b1-gptq-4bit"), analysis)
    # Items with different numbers of choices have no such calibration error.
    assert [row.task for row in rows] == ["boolq", "mine"]
    compared = analysis.tasks["boolq"].compared
    assert rows[0].accuracy == (100 * compared["accuracy"].base.point, 100 * compared["accuracy"].quantized.point)
    assert rows[0].calibration_error[1] == 100 * compared["paper_ce"].quantized.point
    assert [row.authors for row in rows] == [(32.28, 32.47), None]


@pytest.mark.parametrize(
    ("base", "quantized"), [("fake/base", "fake/gptq"), ("bigscience/bloom-7b1", "me/bloom-7b1-awq")]
)
def test_figures_of_others_stand_only_beside_their_own_model(
    run: tuple[Path, RunAnalysis], base: str, quantized: str
) -> None:
    assert [row.authors for row in paper_rows(of_pair(base, quantized), run[1])] == [None, None]


def test_the_report_shows_the_table(run: tuple[Path, RunAnalysis]) -> None:
    folder, analysis = run
    page = render([(read_run(folder), analysis)])
    assert "As in the paper" in page
    assert "authors&#39; CE" not in page
