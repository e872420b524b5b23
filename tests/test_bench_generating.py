"""Tasks whose answers are generated: items, requests, rows, metrics, and runs that are resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.bench.items import Generating, TaskError
from client.bench.session import Stopped
from client.bench.sources.lm_eval_tasks import load_tasks
from client.bench.sources.load import BenchOptions
from client.errors import BadReply
from eval.analysis.run import analyse_run
from qconf.run.columns import AnswerResult
from qconf.run.folder import read_run
from tests.fake_server import FakeServer, error, tokens
from tests.fake_task import write_task
from tests.replays import run

DOCS: list[dict[str, Any]] = [{"question": f"What is {n}?", "answer": "a" if n % 2 else "abc"} for n in range(30)]
CONFIG: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n", "Question:"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "^(.)"}, {"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def write_generating(folder: Path, name: str = "tell", **overrides: Any) -> Path:
    return write_task(folder, name, DOCS, **(CONFIG | overrides))


@pytest.fixture
def generating(options: BenchOptions) -> BenchOptions:
    """Return the options of a replay of a task that generates and one that does not."""
    assert options.include_path is not None
    write_generating(options.include_path)
    return replace(options, tasks=["tell", "sky"])


def test_items_say_how_answers_are_generated(tmp_path: Path) -> None:
    (task,) = load_tasks(["tell"], include_path=write_generating(tmp_path)).tasks
    item = task.items[1]
    assert (item.kind, item.contexts) == ("generate_until", ("Question: What is 1?\nAnswer:",))
    assert item.generating == Generating(max_tokens=12, stop=("\n", "Question:"))
    assert (item.choices, item.choice_context, item.label, item.target) == ((), (), None, "a")
    other = write_generating(tmp_path, generation_kwargs=CONFIG["generation_kwargs"] | {"max_gen_toks": 13})
    assert load_tasks(["tell"], include_path=other).tasks[0].digest != task.digest


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"until": "."}, Generating(256, (".",))),
        ({"until": []}, Generating(256)),
        ({"until": ["."], "temperature": 0.7, "do_sample": False}, Generating(256, (".",))),
        ({"until": ["."], "temperature": 0.7, "top_p": 0.9, "do_sample": True}, Generating(256, (".",), 0.7, 0.9)),
    ],
)
def test_options_of_the_task_are_taken_as_lm_eval_takes_them(
    tmp_path: Path, options: dict[str, Any], expected: Generating
) -> None:
    folder = write_generating(tmp_path, generation_kwargs=options)
    assert load_tasks(["tell"], include_path=folder, limit=1).tasks[0].items[0].generating == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"repeats": 4}, "draws 4 answers to each document: only one can be replayed"),
        (
            {"generation_kwargs": {"until": ["."], "num_beams": 4}},
            "generates with 'num_beams' 4: expected only",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=f"^task 'tell' {message}"):
        load_tasks(["tell"], include_path=write_generating(tmp_path, **overrides))


def test_one_request_gets_the_answers_of_both_models(generating: BenchOptions) -> None:
    fake = FakeServer()
    failed, text = run(generating, fake)
    assert failed == 0
    bodies = [body for body in fake.bodies("/compare") if "max_tokens" in body]
    assert len(bodies) == len(DOCS)
    assert bodies[0].keys() == {
        "prompt", "max_tokens", "generate_from", "stop", "detail", "add_special_tokens"
    }  # fmt: skip
    assert bodies[0]["generate_from"] == "both"
    found = read_run(generating.out)
    answers = [AnswerResult(**row) for row in found.answers.to_pylist()]
    assert [each.doc_id for each in answers] == list(range(len(DOCS)))
    equal = sum(each.equal for each in answers)
    assert 0 < equal < len(DOCS)
    rows = {row.doc_id: row for row in found.items() if row.task == "tell"}
    for each, doc in zip(answers, DOCS, strict=True):
        assert each.common_prefix == (each.base_tokens if each.equal else 1)
        assert json.loads(each.quantized_filtered or "") == {"whole": each.quantized_text, "letter": "a"}
        row = rows[each.doc_id]
        assert json.loads(row.base_metrics or "") == {
            "whole": {"exact_match": float(each.base_text == doc["answer"])},
            "letter": {"exact_match": float(doc["answer"] == "a")},
        }
        assert row.mean_kl == pytest.approx(
            (each.base_mean_kl * each.base_tokens + each.quantized_mean_kl * each.quantized_tokens)
            / (each.base_tokens + each.quantized_tokens)
        )
    task = found.results["tasks"]["tell"]
    assert task["answers"]["equal"] == equal / len(DOCS)
    assert task["answers"]["quantized_tokens"] == sum(len(tokens(each.quantized_text)) for each in answers)
    whole = [json.loads(rows[n].quantized_metrics or "")["whole"]["exact_match"] for n in range(len(DOCS))]
    assert task["metrics"]["quantized"]["exact_match,whole"] == sum(whole) / len(DOCS)
    assert f"tell {len(DOCS)} {100 * equal / len(DOCS):.1f} {100 * equal / len(DOCS):.1f}" in " ".join(text.split())


def test_answers_that_are_drawn_have_a_seed(generating: BenchOptions) -> None:
    assert generating.include_path is not None
    write_generating(generating.include_path, generation_kwargs={"until": ["."], "temperature": 0.5, "do_sample": True})
    fake = FakeServer()
    run(replace(generating, tasks=["tell"]), fake)
    drawn = {(body["temperature"], body["top_p"], body["seed"]) for body in fake.bodies("/compare")}
    assert drawn == {(0.5, 1.0, 1234)}


def test_a_replay_of_answers_is_resumed(generating: BenchOptions) -> None:
    whole = replace(generating, out=generating.out.with_name("whole"))
    run(whole, FakeServer())
    left = 20

    def hook(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        left -= request.url.path == "/compare"
        return error(503, "stopping") if left < 0 else None

    with pytest.raises(Stopped, match="20 of 33 items are kept"):
        run(replace(generating, concurrency=1), FakeServer(hook))
    fake = FakeServer()
    run(replace(generating, resume=True), fake)
    assert len(fake.bodies("/compare")) == 13
    for name in ("items.parquet", "answers.parquet", "results.json"):
        assert (generating.out / name).read_bytes() == (whole.out / name).read_bytes()
    _, text = run(replace(generating, resume=True), FakeServer())
    assert "generated answers" in text


def test_a_journal_whose_answers_have_other_fields_is_refused(generating: BenchOptions) -> None:
    run(generating, FakeServer(lambda request: error(500, "broken") if b"What is 7" in request.content else None))
    journal = generating.out / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"acceptance"', '"accepted"'))
    with pytest.raises(Exception, match="another version of qconf wrote its journal"):
        run(replace(generating, resume=True), FakeServer())


def test_each_variant_has_its_own_answers(generating: BenchOptions) -> None:
    run(generating, FakeServer(variants=("four", "eight")))
    one, two = (read_run(generating.out / name).answers for name in ("four", "eight"))
    assert one["base_text"] == two["base_text"]
    assert one["quantized_text"] != two["quantized_text"]


def test_an_item_whose_answer_is_missing_fails(generating: BenchOptions) -> None:
    def without(request: httpx.Request) -> httpx.Response | None:
        if b"What is 7?" not in request.content:
            return None
        reply = FakeServer().answer(request).json()
        return httpx.Response(200, json=reply | {"generation": None})

    failed, text = run(generating, FakeServer(without))
    assert failed == 1
    assert f"{BadReply.__name__}: the answers of both models are missing" in text
    assert 7 not in read_run(generating.out).answers["doc_id"].to_pylist()


JUDGE = """
def judge(doc, results):
    followed = [len(results[0]) >= 3, "a" in results[0]]
    return {"all": all(followed), "each": followed}


def share(items):
    return sum(sum(each) for each in items) / sum(len(each) for each in items)
"""


def test_a_task_that_judges_by_code_gets_the_answers(generating: BenchOptions) -> None:
    """As ifeval does: several verdicts on an answer, an aggregation of its own, and no filters."""
    folder = generating.include_path
    assert folder is not None
    write_generating(folder, "judged", filter_list=None, metric_list=None)
    (folder / "judge.py").write_text(JUDGE)
    definition = json.loads((folder / "judged.yaml").read_text())
    kept = {key: value for key, value in definition.items() if value is not None}
    metrics = (
        "- {metric: all, aggregation: mean, higher_is_better: true}\n"
        "- {metric: each, aggregation: !function judge.share, higher_is_better: true}\n"
    )
    (folder / "judged.yaml").write_text(
        "".join(f"{key}: {json.dumps(value)}\n" for key, value in kept.items())
        + f"process_results: !function judge.judge\nmetric_list:\n{metrics}"
    )
    run(replace(generating, tasks=["judged"]), FakeServer())
    found = read_run(generating.out)
    texts = found.answers["quantized_text"].to_pylist()
    metrics_of_all = found.results["tasks"]["judged"]["metrics"]["quantized"]
    long = sum(len(text) >= 3 for text in texts)
    assert 0 < long < len(texts)
    assert metrics_of_all == {
        "all,none": long / len(texts),
        "each,none": (long + len(texts)) / (2 * len(texts)),
    }
    (accuracy,) = analyse_run(found, resamples=100).generated["judged"].accuracy.items()
    assert accuracy[0] == "all,none"
    assert accuracy[1].compared.quantized.point == long / len(texts)


def test_answers_cannot_be_replayed_until_a_rule_is_settled(generating: BenchOptions, tmp_path: Path) -> None:
    rules = tmp_path / "gate.toml"
    for statistic, message in (
        (
            "accuracy",
            "'tell' cannot be replayed .*: its answers are generated, replay it without --until; judge",
        ),
        ("equal", "'equal' cannot be judged item by item, expected one of .*; or judge it with 'eval gate'"),
    ):
        rules.write_text(f'[[rule]]\nstatistic = "{statistic}"\nat_least = -0.5\n')
        fake = FakeServer()
        with pytest.raises(TaskError, match=message):
            run(replace(generating, until=rules), fake)
        assert fake.bodies("/compare") == []
