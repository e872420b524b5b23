"""Items that belong together: where they come from, how they are stored, and that the analysis respects them."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from scipy import stats  # type: ignore[import-untyped]
from typer.testing import CliRunner

from client.bench.command import app
from client.bench.items import TaskError
from client.bench.outcome import blank
from client.bench.sources.data import load_data
from client.bench.sources.lm_eval_tasks import load_tasks
from eval.analysis.items import Analysis, analyse
from eval.analysis.run import analyse_run
from eval.gate import judge
from eval.report.verdict import sentences
from qconf.rules import Rule
from qconf.run.choices import Choices, read_choices
from qconf.run.folder import ITEMS, read_run
from qconf.statistics.significance import mcnemar, sign_flip, signed_ranks, wilcoxon
from tests.fake_task import DOCS, write_task
from tests.synthetic_run import items, write

PASSAGES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run of two hundred items in forty passages, where a passage's items are copies of each other."""
    once = items("boolq", PASSAGES, 1, choices=2)
    rows = [
        dataclasses.replace(row, doc_id=5 * number + copy, cluster=f"passage {number}")
        for number, row in enumerate(once)
        for copy in range(5)
    ]
    return write(tmp_path_factory.mktemp("runs") / "clustered", rows)


def whole(path: Path) -> Analysis:
    found = analyse_run(path, resamples=200).overall
    assert found is not None
    return found


def test_lines_of_a_file_name_their_cluster(tmp_path: Path) -> None:
    lines = [
        {"prompt": "Is it?", "choices": ["yes", "no"], "label": 0, "cluster": "a"},
        {"prompt": "Was it?", "choices": ["yes", "no"], "label": 1},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = load_data(path, delimiter=" ").items
    assert [item.cluster for item in found] == ["a", None]
    assert [blank(item).cluster for item in found] == ["a", None]
    path.write_text(json.dumps(lines[0] | {"cluster": 3}))
    with pytest.raises(TaskError, match="line 1: 'cluster': input should be a valid string"):
        load_data(path, delimiter=" ")


def test_documents_of_a_task_are_clustered_by_one_of_their_fields(tmp_path: Path) -> None:
    passages = ["one", 2, None]
    docs = [doc | {"passage": json.dumps(passage)} for doc, passage in zip(DOCS, passages, strict=True)]
    folder = write_task(tmp_path, "sky", docs)
    (task,) = load_tasks(["sky"], include_path=folder, cluster="passage").tasks
    assert [item.cluster for item in task.items] == ['"one"', "2", "null"]
    (task,) = load_tasks(["sky"], include_path=folder, cluster="choices").tasks
    assert task.items[0].cluster == '["yes", "no"]'
    (task,) = load_tasks(["sky"], include_path=folder).tasks
    assert [item.cluster for item in task.items] == [None] * 3


def test_a_field_that_documents_lack_is_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path, "sky")
    said = "documents of task 'sky' have no field 'passage' to cluster by, but question, choices, label"
    with pytest.raises(TaskError, match=said):
        load_tasks(["sky"], include_path=folder, cluster="passage")


def test_the_option_needs_tasks(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--data", str(tmp_path / "mine.jsonl"), "--cluster", "passage"])
    assert done.exit_code == 2
    assert "expected --tasks" in done.output


def test_the_column_is_read_back_and_may_be_missing(folder: Path, tmp_path: Path) -> None:
    run = read_run(folder)
    assert run.items()[7].cluster == "passage 1"
    old = write(tmp_path / "old", run.items())
    pq.write_table(pq.read_table(old / ITEMS).drop_columns(["cluster"]), old / ITEMS)
    found = read_run(old)
    assert found.items()[7].cluster is None
    assert found.table.schema == run.table.schema
    assert read_choices(found).cluster_numbers is None


def test_clusters_are_those_of_a_task(tmp_path: Path) -> None:
    rows = [dataclasses.replace(row, cluster=name) for row, name in zip(items("a", 4, 0), "xxyz", strict=True)]
    rows += [
        dataclasses.replace(row, cluster=name) for row, name in zip(items("b", 3, 0), ("x", None, None), strict=True)
    ]
    found = read_choices(read_run(write(tmp_path / "run", rows)))
    assert found.cluster is not None
    assert found.cluster.tolist() == [0, 0, 1, 2, 3, 4, 5]
    part = found.of_task("b")
    assert part.cluster_numbers is None  # each is on its own


def test_copies_tell_as_much_as_one_of_them(folder: Path, tmp_path: Path) -> None:
    """Intervals and p-values of the clustered run are close to those of a run with one item per passage."""
    clustered = whole(folder)
    rows = read_run(folder).items()
    once = whole(write(tmp_path / "once", [dataclasses.replace(row, cluster=None) for row in rows[::5]]))
    blind = whole(write(tmp_path / "blind", [dataclasses.replace(row, cluster=None) for row in rows]))
    assert (clustered.items, clustered.clusters, blind.clusters) == (200, PASSAGES, None)
    for name in ("accuracy", "true_confidence", "brier", "ece"):
        widths = [each.compared[name].base.high - each.compared[name].base.low for each in (clustered, once, blind)]
        assert widths[0] == pytest.approx(widths[1], rel=0.25), name
        assert widths[2] < 0.6 * widths[0], name
    assert clustered.pair["flips"].high == pytest.approx(once.pair["flips"].high, rel=0.1)
    for name in ("mcnemar", "paired_t", "wilcoxon"):
        p_values = [getattr(each.tests, name).p_value for each in (clustered, once)]
        assert p_values[0] == pytest.approx(p_values[1], abs=0.12), name


def test_the_gate_counts_clusters(folder: Path, tmp_path: Path) -> None:
    rule = Rule(statistic="flips", at_most=0.9)
    (found,) = judge([rule], analyse_run(folder, resamples=200))
    assert (found.outcome, found.value.units, found.value.unit) == ("pass", PASSAGES, "clusters")
    rows = [dataclasses.replace(row, cluster=f"{row.doc_id % 4}") for row in read_run(folder).items()]
    (found,) = judge([rule], analyse_run(write(tmp_path / "few", rows), resamples=200))
    assert found.outcome == "inconclusive"
    assert found.message.endswith("6 more clusters are needed, in all 10, for any verdict")


def test_clusters_are_said(folder: Path) -> None:
    run = analyse_run(folder, resamples=200)
    assert sentences(run)
    from eval.report.page import render
    from eval.report.tables import main_table

    assert run.overall is not None
    assert main_table(run.overall).head[0] == f"200 items in {PASSAGES} clusters, shares in percent"
    assert "sign-flip test by cluster" in render([(read_run(folder), run)])


def test_flipping_signs_of_single_items_is_the_exact_tests() -> None:
    rng, alone = np.random.default_rng(0), np.arange(12)
    base, quantized = np.arange(12) < 9, (np.arange(12) < 2) | (np.arange(12) > 10)
    found = sign_flip(quantized.astype(float) - base, alone, rng)
    assert found == pytest.approx(mcnemar(base, quantized).p_value, abs=0.01)
    before, after = rng.random(12), rng.random(12) + 0.2
    found = sign_flip(signed_ranks(after - before), alone, rng)
    assert found == pytest.approx(wilcoxon(before, after).p_value, abs=0.02)


def test_flipped_signs_by_all_that_there_are() -> None:
    values = np.array([0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.6, 0.1])
    clusters = np.array([0, 0, 1, 1, 2, 3, 4, 4])
    sums = np.array([0.2, 0.7, 0.4, -0.2, 0.7])
    reached = [abs(np.dot(signs, sums)) >= abs(sums.sum()) - 1e-9 for signs in itertools.product((-1, 1), repeat=5)]
    found = sign_flip(values, clusters, np.random.default_rng(0))
    # Of 9,999 flips the standard error is 0.5 %.
    assert found == pytest.approx(np.mean(reached), abs=0.02)
    assert sign_flip(np.zeros(4), np.arange(4), np.random.default_rng(0)) == 1.0


def test_many_clusters_have_the_normal_p_value() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.02, 1.0, 5_000)
    found = sign_flip(values, np.arange(5_000), rng)
    assert found == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.01)


def test_sign_flips_reject_as_often_as_they_should() -> None:
    """Where clusters differ and models do not, 5 % of tests reject; if items count as independent, far more do."""
    rng, clusters = np.random.default_rng(2), np.repeat(np.arange(30), 10)
    flipped, blind = [], []
    for _ in range(300):
        values = rng.normal(size=30)[clusters] + rng.normal(size=300)
        flipped.append(sign_flip(values, clusters, rng))
        blind.append(stats.ttest_1samp(values, 0.0).pvalue)
    # Of 300 data sets the standard error is 1.3 %.
    assert 0.01 < np.mean(np.array(flipped) < 0.05) < 0.09
    assert np.mean(np.array(blind) < 0.05) > 0.3


def test_signed_ranks_leave_out_zeros() -> None:
    assert signed_ranks(np.array([0.5, 0.0, -0.2, -0.5])).tolist() == [2.5, 0.0, -1.0, -2.5]


def test_drawing_clusters_keeps_the_estimate(folder: Path) -> None:
    choices = read_choices(read_run(folder))
    one, two = (
        analyse(each, np.random.default_rng(0), 100) for each in (choices, dataclasses.replace(choices, cluster=None))
    )
    assert isinstance(choices, Choices)
    for name in set(one.compared) - {"l2_squared"}:
        assert one.compared[name].delta.point == pytest.approx(two.compared[name].delta.point), name
