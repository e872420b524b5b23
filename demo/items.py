"""The six tasks: items whose candidates are chosen before the label is drawn, so that the true probabilities hold."""

import json
import random
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


def write_tasks(world: World, folder: Path, count: int) -> None:
    for task in CHOICES:
        file = folder / task / "items.jsonl"
        file.parent.mkdir(parents=True)
        lines = [json.dumps(item) + "\n" for item in make_items(world, task, count)]
        file.write_text("".join(lines), encoding="utf-8")
