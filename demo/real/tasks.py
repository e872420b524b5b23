"""Tasks of BIG-bench as task definitions of lm-evaluation-harness: items with exactly one right answer."""

import json
import random
import shutil
from itertools import zip_longest
from pathlib import Path

from pydantic import BaseModel, ValidationError

from demo.real.stages import StageError
from qconf.demo import TASKS as DEMO_TASKS

NAMES = [
    "social_iqa",
    "strategyqa",
    "implicatures",
    "presuppositions_as_nli",
    "hyperbaton",
    "movie_recommendation",
    "timedial",
]
GROUP = "real"


class Example(BaseModel):
    """An item of a task.json; ``target_scores`` has the choices."""

    input: str
    target_scores: dict[str, float] = {}


class TaskFile(BaseModel):
    """The fields of a task.json that make a prompt, with BIG-bench's defaults."""

    examples: list[Example]
    task_prefix: str = ""
    example_input_prefix: str = "\nQ: "
    example_output_prefix: str = "\nA: "
    choice_prefix: str = "\n  choice: "
    append_choices_to_input: bool = True

    @property
    def delimiter(self) -> str:
        """Return what lm-eval puts between prompt and choice: a choice begins a line, or follows a space."""
        return "" if self.example_output_prefix.endswith("\n") else " "

    def prompt(self, example: Example, choices: list[str]) -> str:
        """Return the prompt as BIG-bench writes it, without the delimiter."""
        listed = "".join(self.choice_prefix + choice for choice in choices)
        text = example.input + (listed if self.append_choices_to_input else "")
        return (self.task_prefix + self.example_input_prefix + text + self.example_output_prefix).lstrip().rstrip(" ")


class Item(BaseModel):
    """A line of a task's items.jsonl."""

    prompt: str
    choices: list[str]
    label: int


def write_tasks(source: Path, out: Path, limit: int, seed: int) -> None:
    """Write the tasks in ``source``/NAME.json as YAML with JSON lines, with at most ``limit`` items of each."""
    out.mkdir(parents=True)
    for shared in ("_multiple_choice", "loader.py"):
        shutil.copyfile(DEMO_TASKS / shared, out / shared)
    for name in NAMES:
        task = read_task(source / f"{name}.json")
        chosen = draw(task, limit, _generator(seed, name))
        (out / name).mkdir()
        lines = "".join(item.model_dump_json() + "\n" for item in chosen)
        (out / name / "items.jsonl").write_text(lines, encoding="utf-8")
        yaml = f"include: _multiple_choice\ntask: {name}\ndataset_kwargs:\n  folder: {name}\n"
        yaml += f"target_delimiter: {json.dumps(task.delimiter)}\n"
        (out / f"{name}.yaml").write_text(yaml, encoding="utf-8")
    group = f"group: {GROUP}\ntask: {json.dumps(NAMES)}\naggregate_metric_list:\n  - metric: acc\n"
    (out / f"{GROUP}.yaml").write_text(group, encoding="utf-8")


def read_task(file: Path) -> TaskFile:
    """Return the examples of a task.json whose scores have a single 1 and zeros, each once."""
    try:
        task = TaskFile.model_validate_json(file.read_bytes())
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise StageError(f"{file}: {where} is not as expected: {first['msg']}") from exc
    single = {
        (example.input, *sorted(scores)): example
        for example in task.examples
        if sorted((scores := example.target_scores).values()) == [0] * (len(scores) - 1) + [1]
    }
    if not single:
        raise StageError(f"{file}: no example has target_scores with a single 1 and zeros")
    return task.model_copy(update={"examples": list(single.values())})


def draw(task: TaskFile, limit: int, rng: random.Random) -> list[Item]:
    """Return items drawn at random; a smaller limit takes the first of the same draw."""
    return [_item(task, example, rng) for example in _shuffled(task, rng)[:limit]]


def kept_back(task: TaskFile, limit: int, rng: random.Random) -> list[Item]:
    """Return items, in random order, whose inputs are not among those of the same draw."""
    shuffled = _shuffled(task, rng)
    drawn = {example.input for example in shuffled[:limit]}
    return [_item(task, example, rng) for example in shuffled[limit:] if example.input not in drawn]


def write_calibration(source: Path, out: Path, limit: int, seed: int) -> None:
    """Write prompts with the right choice as JSON lines, task by task in turn, of items that ``write_tasks`` leaves."""
    texts = []
    for name in NAMES:
        task = read_task(source / f"{name}.json")
        left = kept_back(task, limit, _generator(seed, name))
        texts.append([item.prompt + task.delimiter + item.choices[item.label] for item in left])
    in_turn = [text for each in zip_longest(*texts) for text in each if text is not None]
    out.write_text("".join(json.dumps({"text": text}) + "\n" for text in in_turn), encoding="utf-8")


def _generator(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed}/{name}")


def _shuffled(task: TaskFile, rng: random.Random) -> list[Example]:
    return rng.sample(task.examples, len(task.examples))


def _item(task: TaskFile, example: Example, rng: random.Random) -> Item:
    """Return an item with shuffled choices, as in BIG-bench: in timedial's file the right one is always the last."""
    choices = rng.sample(list(example.target_scores), len(example.target_scores))
    label = [example.target_scores[choice] for choice in choices].index(1)
    choices = [choice.strip() for choice in choices]
    return Item(prompt=task.prompt(example, choices), choices=choices, label=label)
