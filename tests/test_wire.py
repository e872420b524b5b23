"""Errors of invalid requests: one message, and only once."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qconf.wire import (
    MAX_TOKENS,
    BatchRequest,
    CompareRequest,
    DetokenizeRequest,
    ErrorDetail,
    ErrorReply,
    Request,
    TokenizeRequest,
    problem,
)
from server.api.body import parse
from server.api.completions import CompletionRequest

MANY = 1_000_000
EXAMPLES = 400
REQUESTS: list[type[Request]] = [CompareRequest, BatchRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest]
TEXT = st.text(st.characters(), max_size=8)
"""Halves of surrogate pairs included."""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXT
    | st.sampled_from(["tokens", "user", 0, 1, 5, math.nan]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(TEXT, values, max_size=3),
    max_leaves=8,
)


def refusal(fields: dict[str, Any]) -> ErrorDetail:
    with pytest.raises(ValidationError) as caught:
        CompareRequest.model_validate(fields)
    errors = caught.value.errors()  # of the first bad entry; a million take seconds and a gigabyte
    assert len(errors) <= 2
    return problem(errors)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1.5] * MANY}, "prompt[0]"),
        ({"prompt": [1] * (MAX_TOKENS + 1)}, "prompt"),
        ({"prompt": [[]] * MANY}, "prompt[0]"),
        ({"messages": [{}] * 8000}, "messages[0].role"),
        ({"messages": [{}] * MANY}, "messages[0].role"),
        ({"prompt": "a", "continuations": [1] * 256}, "continuations[0]"),
        ({"prompt": "a", "continuations": [[1, "x"]] * 256}, "continuations[0][1]"),
        ({"prompt": "a"} | {f"field{number}": 1 for number in range(300_000)}, "field0"),
        ({"prompt": {"a": [1] * MANY}}, "prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_million_errors_are_one(fields: dict[str, Any], param: str) -> None:
    found = refusal(fields)
    assert found.param == param
    assert len(found.message) < 400


@pytest.mark.parametrize("count", [1, 2, 12, 100])
def test_the_first_of_several_bad_ids_is_named(count: int) -> None:
    assert refusal({"prompt": [1.5] * count}).param == "prompt[0]"
    assert refusal({"prompt": [0] * count + ["x"] * count}).param == f"prompt[{count}]"


def test_a_batch_of_too_many_is_one_error() -> None:
    with pytest.raises(ValidationError) as caught:
        BatchRequest.model_validate({"requests": [1] * MANY})
    assert len(caught.value.errors()) == 1


def test_the_schema_says_that_a_prompt_is_text_or_ids() -> None:
    prompt = CompareRequest.model_json_schema()["properties"]["prompt"]
    kinds = json.dumps(prompt)
    assert '"type": "string"' in kinds
    assert '"type": "array"' in kinds


def bodies(model: type[Request]) -> st.SearchStrategy[Any]:
    """Any JSON: mostly an object with some of the model's fields, sometimes with others."""
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, JSON))
    likely = {
        "prompt": TEXT | st.lists(st.integers(0, 9), min_size=1) | st.lists(TEXT, min_size=1),
        "messages": st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), min_size=1, max_size=2),
        "continuations": st.lists(TEXT | st.lists(st.integers(), min_size=1), min_size=1, max_size=3),
        "requests": st.lists(st.dictionaries(TEXT, JSON, max_size=2), min_size=1, max_size=2),
        "tokens": st.lists(st.integers(), min_size=1),
        "model": TEXT,
        "max_tokens": st.just(1),
    }
    good = st.fixed_dictionaries(
        {}, optional={name: each for name, each in likely.items() if name in model.model_fields}
    )
    return JSON | known | good | st.builds(dict.__or__, good, known)


@pytest.mark.parametrize("model", REQUESTS)
def test_any_json_is_a_request_or_one_problem(model: type[Request]) -> None:
    seen = set()

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
    @given(bodies(model))
    def check(value: Any) -> None:
        seen.add(outcome(model, json.dumps(value).encode()))

    check()
    assert seen == {"request", "problem", "not JSON"}


def outcome(model: type[Request], body: bytes) -> str:
    try:
        fields = parse(body)
    except json.JSONDecodeError:
        return "not JSON"
    try:
        request = model.model_validate(fields)
    except ValidationError as error:
        detail = problem(error.errors())
        assert detail.type == "invalid_request_error"
        assert 10 < len(detail.message) < 1000
        if detail.param is not None:
            assert any(re.match(rf"{re.escape(name)}($|[.[])", detail.param) for name in {*model.model_fields, *fields})
        assert ErrorReply.model_validate_json(ErrorReply(error=detail).model_dump_json()).error == detail
        return "problem"
    assert model.model_validate_json(request.model_dump_json()) == request
    return "request"


@settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]:,"\\\\u0dNaIinfty-.+eE ', max_size=12).map(str.encode))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    try:
        value = parse(body)
    except json.JSONDecodeError:
        return
    assert json.loads(body) == value


def test_an_unknown_field_is_named_with_its_place() -> None:
    assert refusal({"messages": [{"role": "user", "content": "a"}, {"wrong": 1}]}).param == "messages[1].wrong"


def test_of_a_field_that_is_there_twice_the_last_counts() -> None:
    assert parse(b'{"prompt": "a", "prompt": "b"}') == {"prompt": "b"}


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
def test_what_is_not_a_number_in_json_is_refused(number: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        parse(b'{"model": "base", "prompt": "a", "max_tokens": 1, "top_p": ' + number + b"}")
