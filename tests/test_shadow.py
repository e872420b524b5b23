"""Mirrored calls without a server: which are scored, what of them, what is dropped, and who comes first."""

import asyncio
import itertools
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from pydantic_settings import CliApp

from qconf.openai_calls import Call, CallReply, NotScorable, ToScore, to_score
from qconf.wire import CompareRequest
from server.scoring.service import Service
from server.scoring.turns import Origin, Turns
from server.settings import Settings, shadow_rates
from server.shadow.metrics import ShadowMetrics
from server.shadow.queue import MOST_BYTES, Entry, ShadowQueue
from server.shadow.sampling import CHAT, COMPLETIONS, OBSERVE, ROUTES, SampledKeys
from server.shadow.shadow import Shadow

CHAT_CALL = {"messages": [{"role": "user", "content": "Hi"}]}


def call(**fields: Any) -> Call:
    return Call.model_validate(fields)


def answer(*choices: dict[str, Any], **fields: Any) -> CallReply:
    return CallReply.model_validate({"choices": [*choices], **fields})


def sampling(rate: float, salt: str = "") -> SampledKeys:
    return SampledKeys(salt, dict.fromkeys(ROUTES, rate))


def test_the_same_keys_are_taken_on_every_route_and_more_of_them_at_a_higher_rate() -> None:
    keys = [f"user {number}" for number in range(20_000)]
    few = {key for key in keys if sampling(0.1).takes(CHAT, key)}
    assert len(few) == pytest.approx(2000, abs=4 * 43)  # four standard deviations of a binomial count
    assert few == {key for key in keys if sampling(0.1).takes(OBSERVE, key)}
    assert few < {key for key in keys if sampling(0.2).takes(CHAT, key)}
    others = {key for key in keys if sampling(0.1, "salt").takes(CHAT, key)}
    assert len(few & others) == pytest.approx(200, abs=60)
    assert all(sampling(1).takes(CHAT, key) for key in keys)
    assert not any(sampling(0).takes(CHAT, key) for key in keys)


def test_the_key_of_a_chat_stays_the_same_while_it_grows() -> None:
    first = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    grown = [*first, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}]
    assert call(messages=first).key == call(messages=grown).key != call(messages=first[1:]).key
    assert call(messages=grown, user="me").key == call(prompt="x", user="me").key == "me"
    assert call(prompt="x").key != call(prompt="y").key


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {}),
        (["0.25"], dict.fromkeys(ROUTES, 0.25)),
        (["/observe=1", "0.25"], {OBSERVE: 1, COMPLETIONS: 0.25, CHAT: 0.25}),
        ([f"{CHAT}=.5"], {CHAT: 0.5}),
    ],
)
def test_rates_are_of_all_routes_or_of_one(given: list[str], expected: dict[str, float]) -> None:
    assert shadow_rates(given) == dict.fromkeys(ROUTES, 0.0) | expected


@pytest.mark.parametrize("given", ["2", "-1", "nan", "half", "/other=1", "/observe=", "/observe=1.5"])
def test_other_rates_are_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="shadow_rate"):
        CliApp.run(Settings, ["--shadow-rate", given])


@pytest.mark.parametrize(
    ("asked", "answered", "part", "expected"),
    [
        ({"prompt": "a"}, None, "prompt", [("a", None)]),
        ({"prompt": [1, 2]}, None, "prompt", [([1, 2], None)]),
        ({"prompt": ["a", "b"]}, None, "prompt", [("a", None), ("b", None)]),
        ({"prompt": [[1], [2]]}, None, "prompt", [([1], None), ([2], None)]),
        ({"prompt": "a"}, answer({"text": " b"}), "answer_text", [("a", [" b"])]),
        ({"prompt": "a", "n": 2}, answer({"text": " b"}, {"text": " c"}), "answer_text", [("a", [" b"])]),
        (
            {"prompt": ["a", "b"], "n": 2},
            answer({"text": "1"}, {"text": "2"}, {"text": "3"}, {"text": "4"}),
            "answer_text",
            [("a", ["1"]), ("b", ["3"])],
        ),
        ({"prompt": "a"}, answer({"text": ""}), "prompt", [("a", None)]),
        ({"prompt": "a"}, answer(), "prompt", [("a", None)]),
        (
            {"prompt": "a", "echo": True},
            answer({"text": "ab", "prompt_token_ids": [1], "token_ids": [2, 3]}),
            "answer_ids",
            [([1], [[2, 3]])],
        ),
        (
            {**CHAT_CALL, "tools": [{}]},
            answer({"message": {"content": None, "tool_calls": [{}]}, "token_ids": [2]}, prompt_token_ids=[1]),
            "answer_ids",
            [([1], [[2]])],
        ),
    ],
)
def test_the_answer_is_scored_by_its_ids_else_its_text_else_the_prompt(
    asked: dict[str, Any], answered: CallReply | None, part: str, expected: list[tuple[Any, Any]]
) -> None:
    scored = to_score(call(**asked), answered)
    assert scored.part == part
    assert [(each.prompt, each.continuations) for each in scored.requests] == expected


def test_a_chat_keeps_its_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    scored = to_score(call(messages=[{"role": "user", "content": parts}]), answer({"message": {"content": "c"}}))
    (request,) = scored.requests
    assert request.messages is not None
    assert [(each.role, each.content) for each in request.messages] == [("user", "ab")]
    assert request.continuations == ["c"]


@pytest.mark.parametrize(
    ("asked", "answered", "reason"),
    [
        ({**CHAT_CALL, "tools": [{}]}, None, "tools"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, None, "tools"),
        (CHAT_CALL, answer({"message": {"content": "x", "tool_calls": [{}]}}), "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "media"),
        ({"prompt": "a", "echo": True}, answer({"text": "ab"}), "echo"),
    ],
)
def test_what_cannot_be_scored_has_a_reason(asked: dict[str, Any], answered: CallReply | None, reason: str) -> None:
    with pytest.raises(NotScorable) as caught:
        to_score(call(**asked), answered)
    assert caught.value.reason == reason


def entry(size: int = 1) -> Entry:
    return Entry(OBSERVE, "test", ToScore([], "prompt"), size, 0.0)


async def test_the_queue_is_bounded_in_calls_and_in_bytes() -> None:
    queue = ShadowQueue(3)
    assert [queue.put(entry()) for _ in range(5)] == [True, True, True, False, False]
    await queue.get()
    assert queue.put(entry())
    queue = ShadowQueue(1000)
    large = MOST_BYTES // 2
    assert [queue.put(entry(size)) for size in (large, large, 1)] == [True, True, False]
    await queue.get()
    assert queue.put(entry(large))


def test_whatever_becomes_of_a_call_it_is_counted_once() -> None:
    registry = CollectorRegistry()
    rates = dict.fromkeys(ROUTES, 0.5)
    metrics = ShadowMetrics(rates, ["other", "gateway"], 10, registry)
    shadow = Shadow(SampledKeys("", rates), 10, cast(Service, None), metrics, [])  # no work is done here
    picture = call(messages=[{"role": "user", "content": [{"type": "image_url"}]}])
    outcomes = ("queued", "not_sampled", "queue_full", "media", "tools", "echo")
    # Whoever invents names of sources makes no series: they are all counted under one.
    got = [
        (label, shadow.take(CHAT, source, f"user {number}", each, None, 1))
        for number in range(100)
        for each in (call(**CHAT_CALL), picture)
        for source, label in ((f"invented {number}", "other"), ("gateway", "gateway"))
    ]
    found = {
        (source, outcome): registry.get_sample_value(
            "qconf_shadow_calls_total", {"route": CHAT, "source": source, "outcome": outcome}
        )
        for source, outcome in itertools.product(("other", "gateway"), outcomes)
    }
    assert found == {each: got.count(each) for each in found}
    assert sum(map(got.count, found)) == len(got)
    assert found["other", "queued"] == found["gateway", "queued"] == 5
    assert all(found["gateway", outcome] for outcome in ("not_sampled", "queue_full", "media"))
    assert registry.get_sample_value("qconf_shadow_queue") == 10


class Endless:
    """A service that never answers."""

    background_tokens = 0

    async def scored_in_background(self, _: CompareRequest) -> None:
        await asyncio.Event().wait()


async def test_calls_that_are_left_at_the_end_are_counted_under_their_sources() -> None:
    registry = CollectorRegistry()
    rates = dict.fromkeys(ROUTES, 1.0)
    metrics = ShadowMetrics(rates, ["other", "gateway"], 10, registry)
    shadow = Shadow(SampledKeys("", rates), 10, cast(Service, Endless()), metrics, [])
    for source in ("gateway", "invented", "gateway"):
        assert shadow.take(CHAT, source, None, call(**CHAT_CALL), None, 1) == "queued"
    work = asyncio.create_task(shadow.work())
    while registry.get_sample_value("qconf_shadow_queue") != 2:
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    for source, left in (("gateway", 2), ("other", 1)):
        labels = {"source": source, "reason": "stopped"}
        assert registry.get_sample_value("qconf_shadow_failed_total", labels) == left


async def test_background_work_waits_for_all_other_work_and_none_waits_for_it() -> None:
    turns = Turns(1)
    order: list[str] = []
    release = asyncio.Event()

    async def work(name: str, origin: Origin) -> None:
        async with turns.turn(origin, 1):
            order.append(name)
            await (release.wait() if name == "long" else asyncio.sleep(0))

    background = Origin("b", 0, background=True)
    tasks = [asyncio.create_task(work("long", background))]
    await asyncio.sleep(0)
    # The first in the background has its turn, and holds up nobody.
    tasks += [asyncio.create_task(work("asked", Origin("a", number))) for number in range(20)]
    tasks += [asyncio.create_task(work("later", background)) for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*tasks[1:]), 10)
    assert order == ["long"] + ["asked"] * 20 + ["later"] * 3
    release.set()
    await tasks[0]
