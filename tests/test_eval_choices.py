"""Items of runs as arrays: what is read, what is refused, and what follows from log-likelihoods."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax  # type: ignore[import-untyped]
from scipy.stats import entropy  # type: ignore[import-untyped]

from qconf.run.choices import NO_LABEL, Answers, EvalError, read_choices
from qconf.run.columns import ItemResult
from qconf.run.folder import Run, read_run, write_run
from tests.test_results import FAILED, RESULT, SCORED, manifest

THREE = dataclasses.replace(
    SCORED,
    task="piqa",
    doc_id=4,
    label=None,
    n_choices=3,
    base_logprob=[-3.0, -1.0, -2.0],
    quantized_logprob=[-1.0, -1.5, -2.0],
    choice_chars=[7, 8, 9],
)
WINDOW = dataclasses.replace(SCORED, task="corpus", kind="window", n_choices=1, label=None, base_logprob=[-50.0])


def run_of(folder: Path, *rows: ItemResult) -> Run:
    write_run(folder, manifest(), rows, RESULT)
    return read_run(folder)


def test_choices_are_read_padded(tmp_path: Path) -> None:
    choices = read_choices(run_of(tmp_path, SCORED, THREE, WINDOW))
    assert choices.tasks == ("boolq", "piqa")
    assert choices.task.tolist() == [0, 1]
    assert choices.doc_id.tolist() == [0, 4]
    assert choices.labels.tolist() == [1, NO_LABEL]
    assert choices.sizes.tolist() == [2, 3]
    assert choices.base_logprobs.tolist() == [[-1.5, -0.25, -math.inf], [-3.0, -1.0, -2.0]]
    assert choices.quantized_logprobs.tolist() == [[-1.25, -0.5, -math.inf], [-1.0, -1.5, -2.0]]
    assert choices.chars.tolist() == [[3, 2, 1], [7, 8, 9]]
    assert len(choices.labelled) == 1
    assert choices.of_task("piqa").doc_id.tolist() == [4]


def test_a_run_without_multiple_choice_has_no_choices(tmp_path: Path) -> None:
    assert len(read_choices(run_of(tmp_path, WINDOW))) == 0


BAD: list[Any] = [
    (FAILED, r"1 items of .* failed, the first of them document 1 of boolq: resume the run"),
    (dataclasses.replace(SCORED, base_logprob=[-1.0, math.nan]), "task boolq, document 0: base_logprob is nan, expec"),
    (dataclasses.replace(SCORED, quantized_logprob=[-math.inf, -1.0]), "quantized_logprob is -inf, expected a finite"),
    (
        dataclasses.replace(SCORED, base_logprob=[-1.0]),
        "document 0: base_logprob has 1 numbers, expected 2",
    ),
    (dataclasses.replace(SCORED, label=2), "task boolq, document 0: label is 2, expected an index below 2"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_row_that_is_wrong_is_named(tmp_path: Path, row: ItemResult, message: str) -> None:
    with pytest.raises(EvalError, match=message):
        read_choices(run_of(tmp_path, THREE, row))


def test_what_follows_from_log_likelihoods_is_scipys() -> None:
    logprobs = np.random.default_rng(0).normal(size=(50, 4)) * 3 - 400
    logprobs[:, 3] = np.where(np.arange(50) % 2, -np.inf, logprobs[:, 3])
    answers = Answers(logprobs, np.arange(50) % 3)
    shares = softmax(logprobs, axis=1)
    assert answers.shares == pytest.approx(shares)
    assert answers.choice.tolist() == logprobs.argmax(axis=1).tolist()
    assert answers.confidence == pytest.approx(shares.max(axis=1))
    assert answers.entropy == pytest.approx(entropy(shares, axis=1))
    ranked = np.sort(shares, axis=1)
    assert answers.margin == pytest.approx(ranked[:, -1] - ranked[:, -2])
    assert answers.true_share == pytest.approx(shares[np.arange(50), np.arange(50) % 3])
    assert answers.correct.tolist() == (logprobs.argmax(axis=1) == np.arange(50) % 3).tolist()


def test_extremes_and_ties() -> None:
    answers = Answers(np.array([[-1.0, -1.0], [0.0, -2_000.0]]), np.array([1, 0]))
    assert answers.choice.tolist() == [0, 0]
    assert answers.confidence.tolist() == [0.5, 1.0]
    assert answers.entropy.tolist() == [math.log(2), 0.0]
    assert answers.margin.tolist() == [0.0, 1.0]
    alone = Answers(np.array([[-3.0]]), np.array([0]))
    assert (alone.confidence.tolist(), alone.margin.tolist(), alone.entropy.tolist()) == ([1.0], [1.0], [0.0])


def test_without_a_label_there_is_no_right_or_wrong() -> None:
    answers = Answers(np.array([[-1.0, -2.0]] * 2), np.array([0, NO_LABEL]))
    for name in ("correct", "true_share"):
        with pytest.raises(ValueError, match=r"labels\[1\] is missing, expected the index of the true choice"):
            getattr(answers, name)
