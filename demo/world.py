"""A small world whose every question has a known distribution over its answers.

The corpus and the labels of the tasks are drawn from the same distributions, so the ideal model and its confidence are
known. Facts that the tables of `demo.words` do not fix (each person's town, how an unusual pair behaves) are drawn once
from the seed, as noise on log-odds.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from typing import NamedTuple, TypeVar

from demo import words

T = TypeVar("T")

# An entry of a table has weight 1 / rank**ZIPF.
ZIPF = 0.8
# Weight of the second, third... usual answer relative to the first, and of all unusual answers together.
USUAL = (1.0, 0.3, 0.12)
UNUSUAL = 0.08


class Question(NamedTuple):
    """A prompt and the probability of each answer that can follow it."""

    prompt: str
    answers: dict[str, float]


@dataclass(frozen=True)
class Person:
    name: str
    he: str
    him: str
    his: str

    def fill(self, text: str) -> str:
        he, his = self.he, self.his
        return text.format(name=self.name, he=he, He=he.capitalize(), him=self.him, his=his, His=his.capitalize())


PEOPLE = tuple(
    chain.from_iterable(
        (Person(woman, "she", "her", "her"), Person(man, "he", "him", "his"))
        for woman, man in zip(words.WOMEN.split(), words.MEN.split(), strict=True)
    )
)


TOWNS = words.TOWNS.split()


@cache
def zipf_weights(size: int) -> list[float]:
    return list(accumulate(1 / rank**ZIPF for rank in range(1, size + 1)))


def pick(rng: random.Random, table: Sequence[T] | Mapping[T, object]) -> T:
    """Draw an entry of the table, the early ones more often."""
    entries = list(table)
    return rng.choices(entries, cum_weights=zipf_weights(len(entries)))[0]


def draw(rng: random.Random, answers: Mapping[str, float]) -> str:
    return rng.choices(list(answers), list(answers.values()))[0]


def normalized(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {answer: weight / total for answer, weight in weights.items()}


def yes_no(log_odds: float) -> dict[str, float]:
    yes = 1 / (1 + math.exp(-log_odds))
    return {"yes": yes, "no": 1 - yes}


def listed(text: str) -> list[str]:
    return text.split(", ")


class World:
    """Source of questions; `sources` names the six kinds, one per task."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.noise = cache(self._noise)
        self.sources: dict[str, Callable[[random.Random], Question]] = {
            "demo_boolq": self.boolq,
            "demo_arc_easy": self.arc_easy,
            "demo_openbookqa": self.openbookqa,
            "demo_hellaswag": self.hellaswag,
            "demo_piqa": self.piqa,
            "demo_storycloze": self.storycloze,
        }

    def _noise(self, scale: float, *key: str) -> float:
        return random.Random(f"{self.seed}/{'/'.join(key)}").gauss(0, scale)

    def choice_of(self, usual: str, possible: Sequence[str], *key: str) -> dict[str, float]:
        """Weight the usual answers by rank; the other possible answers share a little weight."""
        ranked = listed(usual)
        rest = [answer for answer in possible if answer not in ranked]
        weights = dict(zip(ranked, USUAL, strict=False)) | {answer: UNUSUAL / len(rest) for answer in rest}
        return normalized({a: w * math.exp(self.noise(0.5, *key, a)) for a, w in weights.items()})

    def home(self, person: Person) -> dict[str, float]:
        """Return a town where the person is said to live: mostly the true one."""
        truth = random.Random(f"{self.seed}/home/{person.name}").choice(TOWNS)
        return {town: 0.9 if town == truth else 0.1 / (len(TOWNS) - 1) for town in TOWNS}

    def person_in_town(self, rng: random.Random) -> tuple[Person, str]:
        person = pick(rng, PEOPLE)
        return person, draw(rng, self.home(person))

    def boolq(self, rng: random.Random) -> Question:
        # Comparing two towns is the hardest of the three questions, and names are the rarest words.
        kind = rng.choices((self._will_work, self._will_eat, self._home), (4, 3, 1))[0]
        return kind(rng)

    def _will_work(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        job, weather, feeling = pick(rng, words.JOBS), pick(rng, words.WEATHER), pick(rng, words.FEELING)
        odds = words.WEATHER[weather] + words.FEELING[feeling] + self.noise(1.2, "weather", job, weather)
        prompt = (
            f"Passage: {person.name} is a {job} in {town}. This morning it is {weather} and {person.name} {feeling}.\n"
            f"Question: Will {person.name} {words.JOBS[job]} today?\nAnswer:"
        )
        return Question(prompt, yes_no(1.3 * odds))

    def _will_eat(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        pet, fodder = pick(rng, words.PETS), rng.randrange(len(words.FODDER))
        food = words.FODDER[fodder]
        odds = words.PETS[pet][fodder] + self.noise(0.7, "fodder", pet, food)
        prompt = (
            f"Passage: {person.name} keeps a {pet} in {town}. In the evening {person.he} brings it some {food}.\n"
            f"Question: Will the {pet} eat the {food}?\nAnswer:"
        )
        return Question(prompt, yes_no(odds))

    def _home(self, rng: random.Random) -> Question:
        person = pick(rng, PEOPLE)
        home = self.home(person)
        town = rng.choice((max(home, key=home.__getitem__), rng.choice(TOWNS)))
        prompt = (
            f"Passage: {person.name} is on the way home after a long day. It is getting dark.\n"
            f"Question: Is the house of {person.name} in {town}?\nAnswer:"
        )
        return Question(prompt, yes_no(2.2 if home[town] > 0.5 else -2.2))

    def knowledge(self, rng: random.Random) -> tuple[str, str, dict[str, float]]:
        """Draw a piece of school knowledge: the question, the start of the statement, and the answers."""
        kind = rng.choice(("lives", "eats", "made", "season", "place"))
        if kind in ("lives", "eats"):
            animal = pick(rng, words.ANIMALS)
            column = ("lives", "eats").index(kind)
            answers = self.choice_of(words.ANIMALS[animal][column], POSSIBLE[kind], kind, animal)
            article = "an" if animal[0] in "aeiou" else "a"
            ask = f"Where does {article} {animal} live?" if kind == "lives" else f"What does {article} {animal} eat?"
            return ask, f"{article.capitalize()} {animal} {kind}", answers
        if kind == "made":
            thing = pick(rng, words.THINGS)
            return (
                f"What is a {thing} made of?",
                f"A {thing} is made of",
                self.choice_of(words.THINGS[thing], POSSIBLE[kind], kind, thing),
            )
        table = words.SEASONS if kind == "season" else words.WORKPLACES
        work = pick(rng, table)
        word = "When" if kind == "season" else "Where"
        return f"{word} do people {work}?", f"People {work}", self.choice_of(table[work], POSSIBLE[kind], kind, work)

    def arc_easy(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        ask, _, answers = self.knowledge(rng)
        return Question(
            f"{person.name} goes to school in {town}. The teacher asks a question.\nQuestion: {ask}\nAnswer:", answers
        )

    def openbookqa(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        material, place = pick(rng, words.MATERIALS), pick(rng, words.PLACES)
        things, readiness = words.MATERIALS[material]
        thing, duration = pick(rng, listed(things)), pick(rng, words.DURATIONS)
        calls = words.PLACES[place]
        weights = {
            outcome: (readiness.get(outcome, 0) + 0.05)
            * (calls.get(outcome, 0) + 0.05)
            * math.exp(self.noise(0.6, "fate", material, place, outcome))
            for outcome in OUTCOMES
        } | {words.UNCHANGED: 4 * words.DURATIONS[duration]}
        article = "an" if thing[0] in "aeiou" else "a"
        event = f"{person.he.capitalize()} leaves {article} {thing} {place} {duration}"
        prompt = f"{person.name} lives in {town}. {event}. The {thing} will"
        return Question(prompt, normalized(weights))

    def hellaswag(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        activity, manner = pick(rng, words.ACTIVITIES), pick(rng, words.MANNERS)
        weights = {}
        for kind, (step, weight) in enumerate(zip(words.ACTIVITIES[activity], words.MANNERS[manner], strict=True)):
            weight *= math.exp(self.noise(0.7, "step", activity, manner, str(kind)))
            for sequel in words.SEQUELS[kind]:
                weights[f"{step} {sequel}"] = weight * math.exp(self.noise(0.7, "sequel", activity, sequel))
        prompt = f"{person.name} is {activity} in {town}. {person.name} {manner}. Then {person.he}"
        return Question(prompt, normalized(weights))

    def piqa(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        goal = pick(rng, words.GOALS)
        answers = self.choice_of(words.GOALS[goal], POSSIBLE["tool"], "tool", goal)
        suffix = rng.choice(words.SUFFIXES)
        prompt = f"Goal: {person.name} from {town} wants to {goal}.\nSolution: {person.he.capitalize()} should take"
        return Question(prompt, {f"{tool} {suffix}": probability for tool, probability in answers.items()})

    def storycloze(self, rng: random.Random) -> Question:
        person, town = self.person_in_town(rng)
        wish, effort, event = pick(rng, words.WISHES), pick(rng, words.EFFORTS), pick(rng, words.EVENTS)
        bias, good, bad = words.WISHES[wish]
        odds = bias + words.EFFORTS[effort] + words.EVENTS[event] + self.noise(0.6, "luck", wish, effort)
        win = yes_no(1.2 * odds)
        story = f"{{name}} from {town} wanted to {wish}. {effort} {event} In the end {{he}}"
        answers = {f"{good} {mood}": win["yes"] / len(words.GLAD) for mood in words.GLAD}
        answers |= {f"{bad} {mood}": win["no"] / len(words.SAD) for mood in words.SAD}
        return Question(person.fill(story), answers)

    def fact(self, rng: random.Random) -> Question:
        """Draw a plain statement of a fact that questions ask about."""
        if rng.random() < 0.3:
            person = pick(rng, PEOPLE)
            return Question(f"{person.name} lives in", self.home(person))
        _, statement, answers = self.knowledge(rng)
        return Question(statement, answers)

    def document(self, rng: random.Random) -> tuple[str, str]:
        """Draw one text of the corpus in two parts: a fact or a question, and an answer drawn by its probability."""
        source = rng.choice((*self.sources.values(), self.fact))
        question = source(rng)
        return question.prompt, f" {draw(rng, question.answers)}."


def unique(lists: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(map(listed, lists))))


POSSIBLE = {
    "lives": unique([homes for homes, _ in words.ANIMALS.values()]),
    "eats": unique([foods for _, foods in words.ANIMALS.values()]),
    "made": unique(list(words.THINGS.values())),
    "season": unique(list(words.SEASONS.values())),
    "place": unique(list(words.WORKPLACES.values())),
    "tool": unique(list(words.GOALS.values())),
}
OUTCOMES = tuple(dict.fromkeys(chain.from_iterable(words.PLACES.values())))
