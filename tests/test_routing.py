"""The hash of a request's context, and the order of servers that it gives."""

from collections import Counter
from typing import Any

import pytest

from client import Client, CompareRequest
from client.routing import CONTEXT_HEADER, context_hash, preferred
from tests.fake_server import FakeServer

LONG = "Question: What is a cup made of?\nAnswer:"
IDS = list(range(16))
URLS = [f"http://qconf-{number}:8000" for number in range(4)]


def chat(*turns: str) -> list[dict[str, str]]:
    return [dict(zip(("role", "content"), turn.split(": "), strict=True)) for turn in turns]


def hash_of(**fields: Any) -> str:
    return context_hash(CompareRequest.model_validate(fields))


SAME: list[Any] = [
    pytest.param({"prompt": LONG}, {"prompt": LONG, "continuations": [" clay"]}, id="prompt"),
    pytest.param({"prompt": IDS}, {"prompt": IDS, "continuations": [[1]], "detail": "summary"}, id="ids"),
    pytest.param(
        {"messages": chat("system: Be brief.", "user: Hi")},
        {"messages": chat("system: Be brief.", "user: Hi", "assistant: Hello", "user: Bye")},
        id="chat",
    ),
    pytest.param(
        {"messages": chat("system: Be brief.", "assistant: Hello")},
        {"messages": chat("system: Be brief.", "assistant: Hello"), "max_tokens": 4},
        id="nobody asks",
    ),
]
OTHER: list[Any] = [
    pytest.param({"prompt": LONG}, {"prompt": LONG + " "}, id="prompt"),
    pytest.param({"prompt": IDS}, {"prompt": [*IDS, 16]}, id="ids"),
    pytest.param({"prompt": "", "continuations": ["a"]}, {"prompt": "", "continuations": ["b"]}, id="no prompt"),
    pytest.param({"prompt": [0], "continuations": [[1]]}, {"prompt": [0], "continuations": [[2]]}, id="short"),
    pytest.param({"messages": chat("user: Hi")}, {"messages": chat("system: Hi")}, id="role"),
    pytest.param({"messages": chat("user: Hi")}, {"messages": chat("user: Bye")}, id="chat"),
]


@pytest.mark.parametrize(("one", "two"), SAME)
def test_what_begins_alike_has_the_same_hash(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert hash_of(**one) == hash_of(**two)


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_what_shares_nothing_has_another_hash(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert hash_of(**one) != hash_of(**two)


def test_the_hash_is_what_the_documentation_says() -> None:
    """As ``printf %s '["..."]' | sha256sum | cut -c 1-16`` has it."""
    assert hash_of(prompt="The sky is blue today") == "4152fe7f588deaac"


def test_every_comparison_carries_the_hash_and_nothing_else_does() -> None:
    fake = FakeServer()
    with Client("http://fake", transport=fake.transport) as client:
        client.compare(prompt=LONG, continuations=[" clay"])
        client.models()
        client.compare_batch([{"prompt": LONG}])
    sent = [request.headers.get(CONTEXT_HEADER) for request in fake.received]
    assert sent == [hash_of(prompt=LONG), None, None]


def test_a_server_that_leaves_moves_only_its_own_contexts() -> None:
    contexts = [hash_of(prompt=[number] * 16) for number in range(2000)]
    before = {context: preferred(context, URLS) for context in contexts}
    for context, order in before.items():
        assert sorted(order) == URLS
        assert preferred(context, URLS[1:]) == [url for url in order if url != URLS[0]]
        assert preferred(context, URLS[::-1]) == order
    # Of the contexts of one server, each of the others gets its part: 167 of 500 with a deviation of 12.
    seconds = Counter(order[1] for order in before.values() if order[0] == URLS[0])
    assert len(seconds) == 3
    assert all(100 < count < 240 for count in seconds.values())
