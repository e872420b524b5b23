"""Errors of invalid requests: one message, and only once."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from qconf.wire import MAX_TOKENS, BatchRequest, CompareRequest, ErrorDetail, problem

MANY = 1_000_000


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
