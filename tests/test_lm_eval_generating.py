"""The real lm_eval command generates through our OpenAI route, once per model: the bench's one pass has its answers."""

import json
from pathlib import Path

import pytest

from qconf.demo import TASKS
from qconf.run.columns import AnswerResult
from qconf.run.folder import Run
from tests.test_lm_eval import TOKENIZER, bench, harness

TASK = "demo_piqa_generate"


@pytest.fixture(scope="module")
def run(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run without special tokens, which is lm-eval's default."""
    return bench(server_url, TASKS, tmp_path_factory.mktemp("generated") / "run", "--no-special-tokens", names=[TASK])


@pytest.mark.parametrize(("model", "tokenizer"), [("base", {}), ("quantized", TOKENIZER)])
def test_answers_and_metrics_are_those_of_lm_eval(
    server_url: str, run: Run, tmp_path: Path, model: str, tokenizer: dict[str, object]
) -> None:
    results, samples = harness(server_url, TASKS, tmp_path / "lm", model, [TASK], **tokenizer)
    answers = [AnswerResult(**row) for row in run.answers.to_pylist()]
    rows = run.items()
    assert len(rows) == len(answers) == len(samples[TASK]) == 60
    for row, answer, sample in zip(rows, answers, samples[TASK], strict=True):
        assert (row.doc_id, row.doc_hash, row.prompt_hash) == (
            sample["doc_id"],
            sample["doc_hash"],
            sample["prompt_hash"],
        )
        assert sample["resps"] == [[getattr(answer, f"{model}_text")]]
        assert sample["filtered_resps"] == [json.loads(getattr(answer, f"{model}_filtered"))["tool"]]
        assert json.loads(getattr(row, f"{model}_metrics")) == {"tool": {"exact_match": sample["exact_match"]}}
    ours = run.results["tasks"][TASK]["metrics"][model]
    assert ours == {"exact_match,tool": results[TASK]["exact_match,tool"]}


def test_the_models_are_neither_alike_nor_strangers(run: Run) -> None:
    summary = run.results["tasks"][TASK]["answers"]
    assert 0.5 < summary["equal"] < 1
    for metrics in run.results["tasks"][TASK]["metrics"].values():
        assert 0.3 < metrics["exact_match,tool"] < 0.95
