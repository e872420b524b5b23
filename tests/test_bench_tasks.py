"""Items come out of lm-eval's own tasks exactly as lm-eval would score them."""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.bench.items import Item, LoadedTask, TaskError
from client.bench.sources.lm_eval_tasks import load_tasks
from tests.fake_server import noise
from tests.fake_task import DOCS, WINOGRANDE, write_task

MakeTask = Callable[..., Path]


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    return partial(write_task, tmp_path)


def load(folder: Path, *names: str, **options: Any) -> list[LoadedTask]:
    return load_tasks(names, include_path=folder, **options).tasks


def test_items_are_what_the_task_says(make_task: MakeTask) -> None:
    unlabelled = {"question": "Is there an answer?", "choices": ["yes", "no"], "label": 7}
    (task,) = load(make_task("sky", [*DOCS, unlabelled]), "sky")
    assert (task.name, task.version, task.num_fewshot, len(task.items)) == ("sky", "1.5", 0, 4)
    first, second, third, last = task.items
    assert first.contexts[0] == "Question: Is the sky blue?\nAnswer:"
    assert first.choices == (" yes", " no")
    assert [item.doc_id for item in task.items] == [0, 1, 2, 3]
    assert [item.label for item in task.items] == [0, 1, 1, None]
    assert second.choices == (" yes", " no", " maybe")
    assert third.choice_chars == (6, 2)
    assert third.choice_bytes == (7, 6)
    assert last.label is None


def test_limit_and_fewshot_examples(make_task: MakeTask) -> None:
    (task,) = load(make_task("sky"), "sky", limit=2, num_fewshot=1)
    assert task.num_fewshot == 1
    assert len(task.items) == 2
    for item in task.items:
        assert item.contexts[0].count("Question:") == 2
        assert item.contexts[0].endswith("\nAnswer:")


def test_a_task_that_is_fixed_to_no_examples_stays_so(make_task: MakeTask) -> None:
    (task,) = load(make_task("sky", num_fewshot=0), "sky", num_fewshot=3)
    assert task.num_fewshot == 0


def test_several_tasks_come_in_the_order_asked_for(make_task: MakeTask) -> None:
    make_task("sky")
    tasks = load(make_task("sea"), "sky", "sea", limit=1)
    assert [task.name for task in tasks] == ["sky", "sea"]


def test_a_group_stands_for_its_tasks_once_each(make_task: MakeTask) -> None:
    make_task("sky")
    folder = make_task("sea")
    (folder / "both.yaml").write_text(json.dumps({"group": "both", "task": ["sky", "sea"]}))
    tasks = load(folder, "sea", "both", limit=1)
    assert [task.name for task in tasks] == ["sea", "sky"]


def test_labels_may_be_texts(make_task: MakeTask) -> None:
    docs = [{"question": "?", "choices": ["yes", "no"], "label": word} for word in ("no", "perhaps")]
    (task,) = load(make_task("words", docs), "words")
    assert [item.label for item in task.items] == [1, None]


def test_an_unknown_task_is_named(make_task: MakeTask) -> None:
    folder = make_task("sky")
    with pytest.raises(TaskError, match=f"no task, group or tag of lm-eval is named 'skye' and none in {folder}"):
        load(folder, "sky", "skye")


def test_a_task_whose_data_is_missing_is_named(make_task: MakeTask) -> None:
    folder = make_task("sky")
    (folder / "sky.jsonl").unlink()
    with pytest.raises(TaskError, match=r"^task 'sky' cannot be loaded: Unable to find .*sky\.jsonl'?$"):
        load(folder, "sky")


def test_a_task_whose_template_is_broken_is_named(make_task: MakeTask) -> None:
    folder = make_task("sky", doc_to_choice="{{nothing}}")
    with pytest.raises(TaskError, match=r"^task 'sky' cannot be loaded: "):
        load(folder, "sky")


def test_choices_in_the_context_have_contexts_of_their_own(make_task: MakeTask) -> None:
    (task,) = load(make_task("pronouns", WINOGRANDE["docs"], **WINOGRANDE["config"]), "pronouns")
    item = task.items[0]
    assert item.contexts == ("The cat chased the mouse because the cat", "The cat chased the mouse because the mouse")
    assert item.choices == (" was hungry.", " was hungry.")
    assert item.choice_context == (0, 1)
    # lm-eval treats the contexts as the choices, so acc_norm divides by their lengths.
    assert item.choice_chars == tuple(map(len, item.contexts))
    assert item.label == 0


def test_one_continuation_is_a_loglikelihood_and_a_whole_text_is_rolling(make_task: MakeTask) -> None:
    make_task("last", output_type="loglikelihood", doc_to_target="{{choices[0]}}")
    folder = make_task("text", output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{question}}")
    last, text = load(folder, "last", "text")
    assert (last.items[0].kind, last.items[0].choices, last.items[0].label) == ("loglikelihood", ("yes",), None)
    assert (text.items[0].kind, text.items[0].contexts) == ("loglikelihood_rolling", ("",))
    assert text.items[0].choices == ("Is the sky blue?",)


def test_several_true_choices_and_a_judgement_by_code_leave_the_label_open(make_task: MakeTask) -> None:
    make_task("several", doc_to_target="[0, 1]")
    folder = make_task("judged")
    (folder / "judge.py").write_text("def judge(doc, results):\n    return {'acc': 1.0}\n")
    definition = json.loads((folder / "judged.yaml").read_text())
    del definition["doc_to_target"]
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in definition.items())
    (folder / "judged.yaml").write_text(f"{text}doc_to_target: 0\nprocess_results: !function judge.judge\n")
    for task in load(folder, "several", "judged"):
        assert {item.label for item in task.items} == {None}


def test_the_digest_of_a_task_covers_what_is_scored(make_task: MakeTask) -> None:
    make_task("sky")
    (before,) = load(make_task("sky"), "sky")
    (same,) = load(make_task("sky"), "sky")
    (other,) = load(make_task("sky", doc_to_text="Q: {{question}}\nAnswer:"), "sky")
    assert before.digest == same.digest != other.digest


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_fewshot", [0, 2])
def test_items_agree_with_what_lm_eval_itself_evaluates(make_task: MakeTask, num_fewshot: int) -> None:
    """The real evaluator, on a model with made-up log-likelihoods: same requests, same hashes, same accuracy."""
    folder = make_task("sky", num_fewshot=num_fewshot)
    (task,) = load(folder, "sky")
    results = _evaluate(folder, "sky")
    samples = results["samples"]["sky"]
    assert [item.doc_hash for item in task.items] == [sample["doc_hash"] for sample in samples]
    assert [item.prompt_hash for item in task.items] == [sample["prompt_hash"] for sample in samples]
    for item, sample in zip(task.items, samples, strict=True):
        assert [(item.contexts[0], text) for text in item.choices] == sample["arguments"]
    correct = [_choice(item) == item.label for item in task.items]
    assert results["results"]["sky"]["acc,none"] == sum(correct) / len(correct)


def _choice(item: Item) -> int:
    scores = [_loglikelihood(item.contexts[0], text) for text in item.choices]
    return scores.index(max(scores))


def _loglikelihood(context: str, continuation: str) -> float:
    return -10 * noise(context + continuation)


def _evaluate(folder: Path, name: str) -> Any:
    model = importlib.import_module("lm_eval.api.model")
    manager = importlib.import_module("lm_eval.tasks").TaskManager

    class MadeUp(model.LM):  # type: ignore[name-defined, misc]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [(_loglikelihood(*request.args), False) for request in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise NotImplementedError

    return importlib.import_module("lm_eval.evaluator").simple_evaluate(
        model=MadeUp(),
        tasks=[name],
        task_manager=manager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
