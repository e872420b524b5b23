"""The wire format, shared by server and client.

Replies are columnar: one list per quantity, one entry per token. Every per-token entry at index ``i`` describes the
distribution that *predicted* token ``i``, so the first entry of a sequence is ``None``: nothing predicts it.
All logarithms are natural; log-probabilities, entropies and divergences are in nats.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qconf.error_types import INVALID_REQUEST

MAX_CONTINUATIONS = 256
MAX_BATCH = 1024
MAX_TOP_LOGPROBS = 20
MAX_TOKENS = 2**20
"""Of one list of ids: beyond the context of any model, and short enough to be checked in no time."""
MAX_MESSAGES = 2**13
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


class Message(Request):
    """One chat message."""

    role: str
    content: Text


class CompareRequest(Request):
    """A prompt (or chat messages) to score under both models, optionally followed by candidate continuations."""

    prompt: TextOrIds | None = Field(default=None, description="Text or token ids. Exactly one of prompt and messages.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = Field(
        default=None,
        description="A chat, rendered with the tokenizer's chat template, ending with the generation prompt.",
    )
    continuations: (
        Annotated[list[TextOrIds], Field(min_length=1, max_length=MAX_CONTINUATIONS, fail_fast=True)] | None
    ) = Field(default=None, description="Candidate continuations. Each is scored on its own after the prompt.")
    label: int | None = Field(default=None, ge=0, description="Index of the true continuation, where known.")
    top_logprobs: int = Field(
        default=0, ge=0, le=MAX_TOP_LOGPROBS, description="Likeliest tokens to return per position."
    )
    detail: Literal["tokens", "summary"] = Field(
        default="tokens", description="'tokens' returns per-token columns, 'summary' only sums and means."
    )
    score_prompt: bool = Field(
        default=True, description="Whether, with detail 'tokens', the prompt of continuations gets its columns too."
    )
    add_special_tokens: bool = Field(
        default=True, description="Whether a text prompt gets the tokenizer's special tokens, such as a leading BOS."
    )
    expected_counts: bool = Field(
        default=False,
        description="Whether the continuation, of which there must be one, gets every token's expected count. "
        "Not in batches.",
    )

    @model_validator(mode="after")
    def _check(self) -> "CompareRequest":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "expected exactly one of 'prompt' and 'messages'")
        if self.label is not None:
            if self.continuations is None:
                raise invalid("label", "'label' needs 'continuations'")
            if self.label >= len(self.continuations):
                raise invalid("label", f"'label' is {self.label}, expected an index below {len(self.continuations)}")
        if self.top_logprobs and self.detail == "summary":
            raise invalid("top_logprobs", "'top_logprobs' needs detail 'tokens'")
        if self.expected_counts and len(self.continuations or []) != 1:
            number = len(self.continuations or [])
            raise invalid("expected_counts", f"'expected_counts' needs 1 continuation, got {number}")
        return self


class BatchRequest(Request):
    """Many comparisons at once. Each entry is checked on its own, so that one bad entry does not lose the others."""

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BATCH, fail_fast=True)] = Field(
        description="Bodies of /compare."
    )


IGNORED = "Ignored: both models have the same tokenizer."


class TokenizeRequest(Request):
    """Text to split into tokens; the fields are vLLM's. Both models have the same tokenizer: ``model`` is ignored."""

    prompt: Text = Field(description="Text to split.")
    add_special_tokens: bool = Field(default=True, description="As in /compare.")
    return_token_strs: bool = Field(default=False, description="Whether each token's own text is returned.")
    model: str | None = Field(default=None, description=IGNORED)


class DetokenizeRequest(Request):
    """Token ids to join into text; the fields are vLLM's."""

    tokens: Annotated[list[int], Field(min_length=1, max_length=MAX_DETOKENIZED, fail_fast=True)] = Field(
        description="Token ids to join."
    )
    model: str | None = Field(default=None, description=IGNORED)


class ModelSize(Reply):
    """What a model costs: bytes of all its tensors, and their bits for each weight of the base.

    ``quantized_bits`` are stored for a quantized value, ``quantized_entropy`` are needed: the Shannon entropy of the
    values' distribution. ``compression_ratio`` is of the quantized values (without any: the weights) and zlib, as they
    are stored. The last two are of a sample of 16 MiB.
    """

    bytes: int
    bits_per_weight: float
    quantized_bits: int | None
    quantized_entropy: float | None
    compression_ratio: float


class ModelInfo(Reply):
    """One model of those served.

    ``id`` is "base", or the name of a quantized variant, "quantized" by default; ``root`` is its hub name, or the end
    of its folder's path, ``digest`` a SHA-256 over its configuration and weight files.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "qconf"
    root: str
    revision: str | None
    digest: str
    architecture: str
    dtype: str
    quantization: str | None
    max_model_len: int
    size: ModelSize | None = None


class ServerInfo(Reply):
    """What answered: versions and device, for run manifests."""

    version: str
    vllm: str
    device: str


class ModelList(Reply):
    """Reply of ``/v1/models``: the base, then its quantized variants, of which there is at least one."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]
    server: ServerInfo


class Both(Reply, Generic[T]):
    """A quantity under each model."""

    base: T
    quantized: T


class TopTokens(Reply):
    """The likeliest tokens at one position, likeliest first."""

    token_ids: list[int]
    tokens: list[str]
    logprobs: list[float]


class ModelTokens(Reply):
    """Columns of one model. ``confidence`` is the largest probability, ``argmax`` the id of the token that has it."""

    logprobs: list[float | None]
    entropy: list[float | None]
    confidence: list[float | None]
    argmax: list[int | None]
    top: list[TopTokens | None] | None = None


class TokenComparison(Reply):
    """Columns of both models over a sequence of tokens.

    ``kl`` is KL(base || quantized), ``reverse_kl`` the other; ``total_variation`` is half the sum of |q - p| over the
    vocabulary, from 0 to 1.
    """

    tokens: list[str]
    token_ids: list[int]
    base: ModelTokens
    quantized: ModelTokens
    kl: list[float | None]
    reverse_kl: list[float | None]
    js: list[float | None]
    total_variation: list[float | None]
    agree: list[bool | None]


class Summary(Reply):
    """Means over scored tokens. All fields but ``tokens`` are null when no token was scored.

    ``agreement`` is the share of positions where both models have the same likeliest token; ``perplexity`` is
    exp(-mean log-probability) of the tokens that are there, null where that exceeds the largest float.
    """

    tokens: int
    mean_kl: float | None
    max_kl: float | None
    mean_reverse_kl: float | None
    mean_js: float | None
    mean_total_variation: float | None
    agreement: float | None
    perplexity: Both[float | None]
    mean_entropy: Both[float | None]
    mean_confidence: Both[float | None]


class ContinuationModel(Reply):
    """A continuation under one model.

    ``logprob`` is the sum over its tokens, ``confidence`` the softmax of the sums over the item's continuations,
    ``is_greedy`` whether every token is the model's likeliest.
    """

    logprob: float
    confidence: float
    is_greedy: bool


class Continuation(Reply):
    """One candidate continuation. ``scores`` is present with detail "tokens".

    ``expected_counts``, present where they are asked for, are the probabilities of each token of the vocabulary, summed
    over the continuation's positions: how often it is expected if each next token is drawn from the model. They are
    float32 numbers in the order of the token ids, little-endian, in base64.
    """

    index: int
    text: str
    token_ids: list[int]
    base: ContinuationModel
    quantized: ContinuationModel
    summary: Summary
    scores: TokenComparison | None = None
    expected_counts: Both[str] | None = None


class Choice(Reply):
    """Which continuation each model finds likeliest; ties go to the first. Present with two continuations or more."""

    base: int
    quantized: int
    flip: bool
    label: int | None
    correct: Both[bool] | None
    label_confidence: Both[float] | None


class Usage(Reply):
    """Token counts. ``scored_tokens`` are those that the summary covers; ``computed_tokens`` ran through the models,
    the others came from the prefix cache. A sequence whose scored positions are in the cache, as in a repeated
    request, runs again without the cache: the tokens of both passes are counted."""

    prompt_tokens: int
    continuation_tokens: int
    scored_tokens: int
    computed_tokens: int


class Timing(Reply):
    """Wall-clock times in milliseconds: tokenization, waiting for the engine, the engine, and all of the request."""

    tokenize_ms: float
    queue_ms: float
    engine_ms: float
    total_ms: float


class PairScores(Reply):
    """What a request gives under the base and one quantized variant. ``summary`` covers the continuations' tokens if
    there are any, else the prompt's."""

    models: Both[ModelInfo]
    prompt: TokenComparison | None = None
    continuations: list[Continuation] | None = None
    choice: Choice | None = None
    summary: Summary


class Comparison(PairScores):
    """Reply of ``/compare``: the scores under the base and the first quantized variant, and under ``variants``, by
    name, those under the base and each of the others."""

    id: str
    object: Literal["comparison"] = "comparison"
    created: int
    variants: dict[str, PairScores] = Field(default_factory=dict)
    usage: Usage
    timing: Timing

    def of(self, name: str) -> PairScores:
        """Return the scores under the base and the variant of that name; KeyError where there is none."""
        return self if self.models.quantized.id == name else self.variants[name]


class ErrorDetail(Reply):
    """What went wrong. ``param`` is the field at fault, where there is one."""

    type: str
    message: str
    param: str | None = None


class ErrorReply(Reply):
    """Reply of every failed request, and of failed entries of a batch."""

    error: ErrorDetail


class BatchReply(Reply):
    """Reply of ``/compare/batch``: one entry per request, in order."""

    object: Literal["list"] = "list"
    results: list[Comparison | ErrorReply]


class TokenizeReply(Reply):
    """Token ids of a text, and with ``return_token_strs`` each token's own text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(Reply):
    """Text of token ids."""

    prompt: str


class TokenizerInfo(Reply):
    """What a client must know to build prompts of its own.

    The base model ends its texts with one of ``eos_token_ids``.
    """

    tokenizer_class: str
    bos_token: str | None
    eos_token: str | None
    eos_token_ids: list[int]
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None


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
