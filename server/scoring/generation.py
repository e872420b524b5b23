"""Answers of several models to one prompt, drawn together for as long as they are the same."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from server.engine.interface import Step
from server.engine.twin.rows import Rows
from server.scoring.answer_text import AnswerText

Steps = Callable[[list[int], tuple[int, ...], int], AsyncGenerator[Step]]
"""From the tokens so far, the models that draw the next ones, and how many, to the places that follow."""


@dataclass(frozen=True)
class Place:
    """A token of an answer, and for each variant the row that describes it."""

    token_id: int
    rows: list[Rows]


@dataclass(frozen=True)
class Answer:
    """What one model answers. There is at least one token."""

    places: Sequence[Place]
    text: str
    finish_reason: Literal["stop", "length"]

    @property
    def token_ids(self) -> list[int]:
        """All tokens, the one that ends the text included."""
        return [place.token_id for place in self.places]

    def rows(self, variant: int) -> Rows:
        """Return a row for each token under the base and one variant."""
        return Rows(np.concatenate([place.rows[variant].values for place in self.places]))


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn, and from which models: 0 is the base. Places have ``top`` likeliest tokens."""

    models: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stops: Sequence[str]
    ignore_eos: bool
    top: int

    @cached_property
    def drawn_seed(self) -> int | None:
        """The seed, a new one where none was given, or None where nothing is random."""
        if self.temperature == 0:
            return None
        return secrets.randbelow(2**63) if self.seed is None else self.seed


Emit = Callable[[tuple[int, ...], int, Place, str], None]
"""Is told of each token when it is drawn: whose answers have it, at which index, and by what their text grows."""


async def generate(
    steps: Steps,
    models: tuple[int, ...],
    context: list[int],
    text: AnswerText,
    max_tokens: int,
    end_ids: Collection[int],
    emit: Emit,
) -> dict[int, Answer]:
    """Return each model's answer, by model. Until answers part, they are one sequence and computed once."""
    answers: dict[int, Answer] = {}

    def add(models: tuple[int, ...], places: list[Place], text: AnswerText, place: Place) -> bool:
        """Add a token to an answer; whether the answer goes on."""
        places.append(place)
        ends = place.token_id in end_ids
        grown = "" if ends else text.add(place.token_id)
        stopped = ends or text.stopped
        goes_on = not stopped and len(places) < max_tokens
        if not goes_on:
            grown += text.finish()
            # Answers that shared their tokens up to here have parted from others, which go on with the same list.
            answers.update(dict.fromkeys(models, Answer(tuple(places), text.text, "stop" if stopped else "length")))
        emit(models, len(places) - 1, place, grown)
        return goes_on

    async def part(models: tuple[int, ...], places: list[Place], text: AnswerText, place: Place) -> None:
        if add(models, places, text, place):
            await go_on(models, places, text)

    async def go_on(models: tuple[int, ...], places: list[Place], text: AnswerText) -> None:
        drawing = models
        sequence = context + [place.token_id for place in places]
        async with aclosing(steps(sequence, drawing, max_tokens - len(places))) as following:
            async for step in following:
                drawn = _drawn(step, drawing, models)
                # The sequence goes on with what its first model draws; others that draw something else leave it.
                (models, place), *others = drawn
                for others_models, others_place in others:
                    group.create_task(part(others_models, list(places), text.copy(), others_place))
                if not add(models, places, text, place):
                    return
        raise RuntimeError(f"the engine ended an answer after {len(places)} tokens, expected {max_tokens}")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(go_on(models, [], text))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return answers


def _drawn(step: Step, drawing: tuple[int, ...], models: tuple[int, ...]) -> list[tuple[tuple[int, ...], Place]]:
    """Group those of ``models``, which are among those that draw, by the token that they draw."""
    groups: dict[int, list[int]] = {}
    for i, model in enumerate(drawing):
        if model in models:
            groups.setdefault(step.token_ids[i], []).append(i)
    return [
        (tuple(drawing[i] for i in its), Place(token_id, [Rows(rows.values[its[0]][None]) for rows in step.rows]))
        for token_id, its in groups.items()
    ]
