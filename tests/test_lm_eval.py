"""The real lm_eval command against our OpenAI routes, once per model: the bench's numbers are the same, item by item.

One task of each kind that lm-eval scores by log-likelihood, on items of the demo pair's world.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from qconf.demo import PAIR, TASKS
from qconf.run.columns import ItemResult
from qconf.run.folder import Run, read_run
from tests.fake_task import WINOGRANDE, write_task

ITEMS = 8
CONTEXT = 1024  # of the demo pair
METRICS = ("acc", "acc_norm", "acc_bytes", "brier_score", "exact_match")

# lm-eval's requests hold one token more and meet other requests in a batch: other shapes, other rounding. Whole texts,
# of some thousand tokens, are compared relative to their sum.
LOGPROB, WHOLE_TEXT = 2e-3, 5e-5
# Metrics that are means of right and wrong must be equal; others follow the log-probabilities.
RELATIVE = 2e-3


def docs(task: str, count: int = ITEMS) -> list[dict[str, Any]]:
    lines = (TASKS / task / "items.jsonl").read_text().splitlines()[:count]
    return [json.loads(line) for line in lines]


def metrics(*names: str) -> list[dict[str, str]]:
    return [{"metric": name} for name in names]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    prompt: dict[str, Any] = {"doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}"}
    four, two = docs("demo_hellaswag"), docs("demo_boolq")
    lines = docs("demo_arc_easy", 300)
    ragged = [doc | {"choices": doc["choices"][: 2 + i % 3], "label": i % 2} for i, doc in enumerate(four)]
    write_task(folder, "four", four, **prompt, metric_list=metrics(*METRICS), num_fewshot=2, fewshot_split="test")
    write_task(folder, "ragged", ragged, **prompt, metric_list=metrics("acc", "acc_norm"))
    write_task(folder, "mutual", two, **prompt, metric_list=metrics("acc", "acc_mutual_info"))
    write_task(folder, "pronouns", WINOGRANDE["docs"], **WINOGRANDE["config"], metric_list=metrics("acc"))
    write_task(folder, "unknown_context", two, **(prompt | {"doc_to_text": ""}), metric_list=metrics("acc"))
    write_task(
        folder,
        "last",
        [doc | {"answer": doc["choices"][doc["label"]]} for doc in two],
        output_type="loglikelihood",
        doc_to_text="{{prompt}}",
        doc_to_target="{{' ' + answer}}",
        doc_to_choice=None,
        metric_list=metrics("perplexity", "acc"),
    )
    write_task(
        folder,
        "text",
        [{"page": "\n".join(doc["prompt"] for doc in lines[i::3])} for i in range(3)],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        doc_to_choice=None,
        metric_list=metrics("word_perplexity", "byte_perplexity", "bits_per_byte"),
    )
    group = {"group": "both", "task": ["ragged", "mutual"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "both.yaml").write_text(json.dumps(group))
    return folder


NAMES = ["four", "both", "pronouns", "unknown_context", "last", "text"]
LEAVES = ["four", "ragged", "mutual", "pronouns", "unknown_context", "last", "text"]
TOKENIZER: dict[str, Any] = {"tokenizer": PAIR / "base", "tokenizer_backend": "huggingface"}


def harness(
    url: str, tasks: Path, out: Path, model: str, names: Sequence[str] = NAMES, **options: object
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run lm_eval, and return results and samples by task."""
    arguments = {"model": model, "base_url": f"{url}/v1/completions", "num_concurrent": 4, "max_length": CONTEXT}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("lm_eval")), "--model", "local-completions",
            "--model_args", ",".join(f"{key}={value}" for key, value in (arguments | options).items()),
            "--tasks", ",".join(names), "--include_path", str(tasks), "--log_samples", "--output_path", str(out),
        ],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (results,) = out.rglob("results_*.json")
    samples = {
        path.stem.removeprefix("samples_").rpartition("_")[0]: [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in out.rglob("samples_*.jsonl")
    }
    return json.loads(results.read_text())["results"], samples


def bench(url: str, tasks: Path, out: Path, *options: str, names: Sequence[str] = NAMES) -> Run:
    command = ["client.bench", "--url", url, "--tasks", ",".join(names), "--include-path", str(tasks)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--out", str(out), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return read_run(out)


@pytest.fixture(scope="module")
def plain(server_url: str, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run without special tokens, which is lm-eval's default."""
    return bench(server_url, tasks, tmp_path_factory.mktemp("plain") / "run", "--no-special-tokens")


def test_with_the_servers_tokenizer(server_url: str, tasks: Path, tmp_path: Path, plain: Run) -> None:
    # lm-eval takes the first token of a text for missing where its id is 0, as here, if it asked a server for it: it
    # puts the last one before what has no context, which these tasks do not have.
    names = ["four", "ragged", "pronouns", "last"]
    check(plain, "base", names, *harness(server_url, tasks, tmp_path / "lm", "base", names))


def test_with_its_own_tokenizer(server_url: str, tasks: Path, tmp_path: Path, plain: Run) -> None:
    results = harness(server_url, tasks, tmp_path / "lm", "quantized", **TOKENIZER)
    check(plain, "quantized", LEAVES, *results)


def test_with_special_tokens(server_url: str, tasks: Path, tmp_path: Path) -> None:
    run = bench(server_url, tasks, tmp_path / "run")
    results = harness(server_url, tasks, tmp_path / "lm", "base", add_bos_token=True, **TOKENIZER)
    check(run, "base", LEAVES, *results)


def check(run: Run, model: str, tasks: Sequence[str], results: dict[str, Any], samples: dict[str, Any]) -> None:
    """Compare one pass for both models with lm-eval's pass for one of them."""
    rows = {task: list(group) for task, group in groupby(run.items(), key=lambda row: row.task)}
    assert set(rows) == set(LEAVES)
    assert set(samples) == set(tasks)
    for task in tasks:
        assert len(rows[task]) == len(samples[task]) > 1
        for row, sample in zip(rows[task], samples[task], strict=True):
            assert (row.doc_id, row.doc_hash, row.prompt_hash) == (
                sample["doc_id"],
                sample["doc_hash"],
                sample["prompt_hash"],
            )
            check_item(row, model, sample)
    metrics = metrics_of(run, model)
    for name, theirs in results.items():
        ours = metrics[name]
        assert set(ours) == {key for key in theirs if "," in key and "_stderr" not in key}
        assert ours == pytest.approx({key: theirs[key] for key in ours}, rel=RELATIVE)


def metrics_of(run: Run, model: str) -> dict[str, dict[str, float]]:
    tasks = {name: task["metrics"][model] for name, task in run.results["tasks"].items()}
    groups = {name: group[model] for name, group in run.results["groups"].items()}
    assert set(groups) == {"both"}
    return tasks | groups


def check_item(row: ItemResult, model: str, sample: dict[str, Any]) -> None:
    answers = [answer for (answer,) in sample["resps"]]
    if row.kind == "loglikelihood_rolling":
        theirs, greedy = [float(answer) for answer in answers], None
        assert row.choice_tokens[0] > CONTEXT
        tolerance = WHOLE_TEXT * abs(theirs[0])
    else:
        theirs, greedy = [float(answer[0]) for answer in answers], [answer[1] == "True" for answer in answers]
        tolerance = LOGPROB
    if model == "base":
        ours, ours_greedy = [*row.base_logprob, *row.base_unconditional], row.base_is_greedy
    else:
        ours, ours_greedy = [*row.quantized_logprob, *row.quantized_unconditional], row.quantized_is_greedy
    assert ours == pytest.approx(theirs, abs=tolerance)
    if greedy is not None:
        assert list(ours_greedy) == greedy[: len(ours_greedy)]
    metrics = json.loads((row.base_metrics if model == "base" else row.quantized_metrics) or "")["none"]
    assert set(metrics) == set(sample["metrics"])
    for name in set(metrics) & {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"}:
        assert metrics[name] == sample[name]
