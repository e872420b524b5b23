"""The client on its own, against a stand-in for the server."""

import inspect
import json
import subprocess
import sys

import httpx
import pytest

import client
from client import AsyncClient, BadReply, Client, CompareRequest, Comparison, ErrorDetail, InvalidRequest, NotFound
from tests.fake_server import FakeServer, error


def test_everything_public_is_exported_and_nothing_else() -> None:
    visible = {name for name, value in vars(client).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert visible == set(client.__all__)
    assert client.__all__ == sorted(client.__all__)


def test_importing_the_client_imports_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "vllm", "transformers", "pyarrow", "typer", "lm_eval", "fastapi", "polars"}
    program = f"import client, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compare_sends_what_was_given_and_nothing_more() -> None:
    fake = FakeServer()
    with Client("http://fake/", transport=fake.transport) as qconf:
        reply = qconf.compare(prompt="2 + 2 =", continuations=[" 4", " 5"], label=0)
    assert isinstance(reply, Comparison)
    assert reply.continuations is not None
    assert [c.text for c in reply.continuations] == [" 4", " 5"]
    assert fake.bodies("/compare") == [{"prompt": "2 + 2 =", "continuations": [" 4", " 5"], "label": 0}]
    assert str(fake.received[0].url) == "http://fake/compare"
    assert fake.received[0].headers["content-type"] == "application/json"
    assert fake.received[0].headers["user-agent"].startswith("qconf-client/")


def test_messages_and_token_ids_travel_as_they_are() -> None:
    fake = FakeServer()
    with Client("http://fake", transport=fake.transport) as qconf:
        qconf.compare(messages=[{"role": "user", "content": "Hi"}], detail="summary")
        qconf.compare(prompt=[1, 2, 3], continuations=[[4], " five"])
    assert fake.bodies("/compare") == [
        {"messages": [{"role": "user", "content": "Hi"}], "detail": "summary"},
        {"prompt": [1, 2, 3], "continuations": [[4], " five"]},
    ]


INVALID = [
    pytest.param({}, "expected exactly one of 'prompt' and 'messages'", "prompt", id="nothing"),
    pytest.param(
        {"prompt": 7}, "'prompt': expected text or a list of at least one token id, got 7", "prompt", id="type"
    ),
    pytest.param(
        {"prompt": "a", "continuations": []},
        "'continuations': list should have at least 1",
        "continuations",
        id="empty",
    ),
    pytest.param(
        {"prompt": "a", "continuations": ["b", 3]},
        r"\'continuations\[1\]\': expected text",
        "continuations[1]",
        id="element",
    ),
    pytest.param(
        {"prompt": "a", "continuations": ["b"], "label": 1}, "'label' is 1, expected an index below 1", "label"
    ),
    pytest.param({"prompt": "a", "label": -1}, "'label': ", "label", id="negative label"),
    pytest.param({"prompt": "a", "temprature": 1}, "'temprature': extra inputs", "temprature", id="unknown field"),
    pytest.param({"prompt": "half a pair: \ud83d"}, "half of a surrogate pair", "prompt", id="surrogate"),
]


@pytest.mark.parametrize(("fields", "message", "param"), INVALID)
def test_invalid_requests_are_refused_before_anything_is_sent(
    fields: dict[str, object], message: str, param: str
) -> None:
    fake = FakeServer()
    with (
        Client("http://fake", transport=fake.transport) as qconf,
        pytest.raises(InvalidRequest, match=message) as caught,
    ):
        qconf.compare(**fields)  # type: ignore[arg-type]
    assert caught.value.status is None
    assert caught.value.param == param
    assert not fake.received


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://host:port"])
def test_a_base_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidRequest, match="base_url: ") as caught:
        Client(url)
    assert caught.value.param == "base_url"


def test_a_path_in_front_of_the_server_is_kept() -> None:
    fake = FakeServer()
    with Client("http://proxy/qconf/", transport=fake.transport) as qconf, pytest.raises(NotFound):
        qconf.models()
    assert str(fake.received[0].url) == "http://proxy/qconf/v1/models"


def test_a_bad_entry_of_a_batch_does_not_lose_the_others() -> None:
    fake = FakeServer()
    with Client("http://fake", transport=fake.transport) as qconf:
        replies = qconf.compare_batch(
            [
                CompareRequest.model_validate({"prompt": "a", "continuations": ["b", "c"], "label": 1}),
                {"prompt": "a", "label": 3},
                {"prompt": "d", "continuations": ["e"]},
            ]
        )
    assert [type(reply) for reply in replies] == [Comparison, ErrorDetail, Comparison]
    assert fake.bodies("/compare/batch")[0]["requests"][0] == {"prompt": "a", "continuations": ["b", "c"], "label": 1}


def test_an_empty_batch_is_refused() -> None:
    with (
        Client("http://fake", transport=FakeServer().transport) as qconf,
        pytest.raises(InvalidRequest, match="'requests': list should have at least 1"),
    ):
        qconf.compare_batch([])


def test_an_entry_that_is_no_json_is_refused_before_anything_is_sent() -> None:
    fake = FakeServer()
    with Client("http://fake", transport=fake.transport) as qconf:
        for value in ("half a pair: \ud83d", object()):
            with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
                qconf.compare_batch([{"prompt": value}])
    assert not fake.received


def test_a_batch_with_too_few_answers_is_a_bad_reply() -> None:
    fake = FakeServer(lambda _: httpx.Response(200, json={"object": "list", "results": []}))
    with (
        Client("http://fake", transport=fake.transport) as qconf,
        pytest.raises(BadReply, match="expected 2 results to a batch of 2, got 0"),
    ):
        qconf.compare_batch([{"prompt": "a"}, {"prompt": "b"}])


def test_models_and_tokenize() -> None:
    fake = FakeServer()
    with Client("http://fake", transport=fake.transport) as qconf:
        served = qconf.models()
        assert [model.id for model in served.data] == ["base", "quantized"]
        assert served.server.vllm == "0.32.0"
        assert qconf.tokenize("abc", add_special_tokens=False).tokens == [97, 98, 99]
        chat: list[dict[str, str]] = [{"role": "user", "content": "ab"}]
        split = qconf.tokenize(messages=chat, continuation="c")
        assert (split.tokens, split.continuation) == ([97, 98], [99])
        assert qconf.detokenize([97, 98]).prompt == "ab"
    assert fake.bodies("/tokenize") == [
        {"prompt": "abc", "add_special_tokens": False},
        {"messages": chat, "continuation": "c"},
    ]


def test_ready_tells_starting_and_absent_servers_from_ready_ones() -> None:
    def absent(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    answers = [FakeServer(), FakeServer(lambda _: error(503, "loading")), FakeServer(absent)]
    with_clients = [Client("http://fake", transport=fake.transport) for fake in answers]
    assert [qconf.ready() for qconf in with_clients] == [True, False, False]
    # A question about readiness is answered at once: it is not tried again.
    assert [len(fake.received) for fake in answers] == [1, 1, 1]
    for qconf in with_clients:
        qconf.close()


def test_newer_servers_may_say_more() -> None:
    def hook(request: httpx.Request) -> httpx.Response:
        body = json.loads(FakeServer().answer(request).content)
        body["news"] = body["summary"]["news"] = 1
        return httpx.Response(200, json=body)

    with Client("http://fake", transport=FakeServer(hook).transport) as qconf:
        assert qconf.compare(prompt="a").summary.mean_kl == 0.02


async def test_the_asynchronous_client_does_the_same() -> None:
    fake = FakeServer()
    requests: list[dict[str, object]] = [{"prompt": "a", "continuations": ["b", "c"]}, {"prompt": ""}]
    with Client("http://fake", transport=fake.transport) as blocking:
        expected = blocking.compare(prompt="a", continuations=["b", "c"])
        expected_batch = blocking.compare_batch(requests)
    async with AsyncClient("http://fake", transport=fake.transport) as qconf:
        assert await qconf.compare(prompt="a", continuations=["b", "c"]) == expected
        assert await qconf.compare_batch(requests) == expected_batch
        assert (await qconf.models()).server.device == "cpu"
        assert (await qconf.tokenize("ab")).tokens == [97, 98]
        assert (await qconf.detokenize([97, 98])).prompt == "ab"
        assert await qconf.ready()
        with pytest.raises(InvalidRequest):
            await qconf.compare()


@pytest.mark.parametrize(
    ("given", "variable", "sent"), [("k1", "k2", "Bearer k1"), (None, "k2", "Bearer k2"), (None, "", None)]
)
def test_an_api_key_is_sent(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str, sent: str | None
) -> None:
    monkeypatch.setenv("QCONF_API_KEY", variable)
    fake = FakeServer()
    with Client("http://fake", api_key=given, transport=fake.transport) as qconf:
        qconf.models()
    assert fake.received[0].headers.get("authorization") == sent


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidRequest, match="api_key: expected printable ASCII") as caught:
        Client("http://fake", api_key="secret\r\nX: y")
    assert "secret" not in str(caught.value)
