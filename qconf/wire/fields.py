"""Types and limits that requests and replies share, and the sentence for a request that does not fit."""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from qconf.error_types import INVALID_REQUEST

MAX_CONTINUATIONS = 256
MAX_BATCH = 1024
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 2**20
"""Of one list of ids: beyond the context of any model, and short enough to be checked in no time."""
MAX_MESSAGES = 2**13
MAX_STOPS = 16
MAX_TEMPERATURE = 10.0
MAX_DETOKENIZED = 2**19
"""Ids that are joined into one text. It takes 60 ms, in which nothing else is answered."""

VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Names of variants are part of replies, and become names of folders."""

T = TypeVar("T")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected text, got half of a surrogate pair at character {error.start}") from None
    return text


Role = Literal["base", "quantized"]
Text = Annotated[str, AfterValidator(_encodable)]
TokenIds = Annotated[list[int], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]


def _form(given: object) -> str | None:
    if isinstance(given, str):
        return "a text"
    return "token ids" if isinstance(given, list) and given else None


TextOrIds = Annotated[
    Annotated[Text, Tag("a text")] | Annotated[TokenIds, Tag("token ids")],
    Discriminator(
        _form,
        custom_error_type="text_or_ids",
        custom_error_message="expected text or a list of at least one token id",
    ),
]


def invalid(param: str, message: str) -> PydanticCustomError:
    """Make an error of several fields together, reported for one of them."""
    return PydanticCustomError("invalid", "{message}", {"param": param, "message": message})


def stop_texts(stop: str | list[str] | None) -> list[str]:
    """Return the texts that end an answer, of the field 'stop'. An empty one is an error."""
    texts = [stop] if isinstance(stop, str) else stop or []
    if "" in texts:
        raise invalid("stop", "'stop' has an empty text, expected at least one character")
    return texts


class Request(BaseModel):
    """Base of what clients send: unknown fields and values of the wrong type are errors, never repaired."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        """Report one unknown field. Pydantic would report each, which takes seconds for a hundred thousand."""
        if isinstance(fields, Mapping):
            for name in fields:
                if name not in cls.model_fields:
                    known = ", ".join(cls.model_fields)
                    raise invalid(name, f"{EXCERPT.repr(name)}: extra inputs are not permitted, expected {known}")
        return fields


class Reply(BaseModel):
    """Base of what the server sends: unknown fields are ignored, so that older clients read newer servers."""

    model_config = ConfigDict(extra="ignore")


class Both(Reply, Generic[T]):
    """A quantity under each model."""

    base: T
    quantized: T


class ErrorDetail(Reply):
    """What went wrong. ``param`` is the field at fault, where there is one."""

    type: str
    message: str
    param: str | None = None


EXCERPT = reprlib.Repr()
"""Writes values without walking through all of a large one."""
EXCERPT.maxlevel, EXCERPT.maxstring, EXCERPT.maxlong, EXCERPT.maxother = 2, 80, 80, 80


def problem(errors: Sequence[Any]) -> ErrorDetail:
    """One sentence for the first of pydantic's errors: the field, what was expected, and what came."""
    error = errors[0]
    param = _field(error["loc"])
    if "param" in error.get("ctx", {}):
        named: str = error["ctx"]["param"]
        return ErrorDetail(type=INVALID_REQUEST, message=error["msg"], param=f"{param}.{named}" if param else named)
    expected = str(error["msg"]).removeprefix("Value error, ")
    shown = EXCERPT.repr(error["input"])
    message = f"{repr(param) if param else 'the body'}: {expected[0].lower() + expected[1:]}, got {shown}"
    return ErrorDetail(type=INVALID_REQUEST, message=message, param=param)


def _field(location: Sequence[str | int]) -> str | None:
    """``("body", "continuations", 1, "a text")`` as ``continuations[1]``: names of union members are left out."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part.isidentifier() and part != "body":
            name += f".{part}" if name else part
    return name or None
