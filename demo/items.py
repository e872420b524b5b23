"""The six tasks of choices: candidates are drawn before the label, so that the true probabilities hold. And one task
whose answers are generated.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from demo.world import Question, World, draw, normalized

CHOICES = {
    "demo_boolq": 2,
    "demo_arc_easy": 4,
    "demo_openbookqa": 4,
    "demo_hellaswag": 4,
    "demo_piqa": 2,
    "demo_storycloze": 2,
}
# Where answers come in equal groups (the four ways of going on, the two of ending), each group gives one candidate.
GROUPED = ("demo_hellaswag", "demo_storycloze")
# Elsewhere they are drawn by probability**FLATTENING: mostly plausible ones, so that choosing is not too easy.
FLATTENING = 0.55
GENERATING = "demo_piqa_generate"
"""The task whose answers are generated: its goals are those of demo_piqa, without candidates."""
PROMPTS = 60
"""Items of that task: an answer takes far longer than a choice."""


class Item(TypedDict):
    """An item; `probabilities` are the true ones, of each choice given that one of them follows the prompt."""

    prompt: str
    choices: list[str]
    label: int
    probabilities: list[float]


def candidates(rng: random.Random, task: str, answers: dict[str, float]) -> list[str]:
    if task == "demo_boolq":
        return ["no", "yes"]
    if task in GROUPED:
        ordered, size = list(answers), len(answers) // CHOICES[task]
        return [rng.choice(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    left = {answer: probability**FLATTENING for answer, probability in answers.items()}
    chosen = []
    for _ in range(CHOICES[task]):
        chosen.append(draw(rng, left))
        del left[chosen[-1]]
    return chosen


def make_item(rng: random.Random, task: str, question: Question, position: int) -> Item:
    """Make an item with the label at a given position, so that positions are balanced and do not reveal the answer."""
    choices = candidates(rng, task, question.answers)
    probabilities = normalized({choice: question.answers[choice] for choice in choices})
    truth = draw(rng, probabilities)
    if task != "demo_boolq":
        rng.shuffle(choices)
        choices.remove(truth)
        choices.insert(position, truth)
    return Item(
        prompt=question.prompt,
        choices=choices,
        label=choices.index(truth),
        probabilities=[round(probabilities[choice], 6) for choice in choices],
    )


def make_items(world: World, task: str, count: int) -> list[Item]:
    rng = random.Random(f"{world.seed}/{task}")
    items: list[Item] = []
    seen = set()
    while len(items) < count:
        item = make_item(rng, task, world.sources[task](rng), len(items) % CHOICES[task])
        key = (item["prompt"], *sorted(item["choices"]))
        if key not in seen:
            seen.add(key)
            items.append(item)
    return items


class Prompt(TypedDict):
    """An item to generate an answer to; the answer is the tool, with which the text begins."""

    prompt: str
    answer: str


def make_prompts(world: World, count: int) -> list[Prompt]:
    rng = random.Random(f"{world.seed}/{GENERATING}")
    found: dict[str, Prompt] = {}
    while len(found) < count:
        question = world.sources["demo_piqa"](rng)
        tool, _, _ = draw(rng, question.answers).partition(" and ")
        found.setdefault(question.prompt, Prompt(prompt=question.prompt, answer=tool))
    return list(found.values())


def write_tasks(world: World, folder: Path, count: int) -> None:
    for task in CHOICES:
        write_items(folder / task, make_items(world, task, count))
    write_items(folder / GENERATING, make_prompts(world, PROMPTS))


def write_items(folder: Path, items: Sequence[Item | Prompt]) -> None:
    folder.mkdir(parents=True)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
