"""What clients send."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from qconf.wire.fields import (
    MAX_BATCH,
    MAX_CONTINUATIONS,
    MAX_DETOKENIZED,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
    Request,
    Text,
    TextOrIds,
    invalid,
    stop_texts,
)

GENERATING = ("generate_from", "temperature", "top_p", "seed", "stop", "ignore_eos", "stream")
"""Fields of a comparison that mean something only where an answer is generated."""


class Message(Request):
    """One chat message."""

    role: str
    content: Text


class Chat(Request):
    """What of a request is a chat."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = Field(
        default=None,
        description="A chat, rendered with the tokenizer's chat template.",
    )
    add_generation_prompt: bool | None = Field(
        default=None,
        description="Whether the chat ends where the model's answer begins. By default it does, unless "
        "'continue_final_message' is set.",
    )
    continue_final_message: bool = Field(
        default=False, description="Whether the chat ends within its last message, which an answer goes on with."
    )

    @model_validator(mode="after")
    def _check_chat(self) -> "Chat":
        if self.messages is None:
            for name in ("add_generation_prompt", "continue_final_message"):
                if getattr(self, name):
                    raise invalid(name, f"{name!r} needs 'messages'")
        if self.add_generation_prompt and self.continue_final_message:
            raise invalid(
                "add_generation_prompt", "expected one of 'add_generation_prompt' and 'continue_final_message'"
            )
        return self

    @property
    def answer_begins(self) -> bool:
        """Whether the chat's text ends where an answer begins."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt


class CompareRequest(Chat):
    """A prompt (or chat messages) to score under both models, optionally followed by candidate continuations."""

    prompt: TextOrIds | None = Field(default=None, description="Text or token ids. Exactly one of prompt and messages.")
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
    max_tokens: int = Field(
        default=0, ge=0, le=MAX_TOKENS, description="Most tokens of an answer to the prompt; 0: none is generated."
    )
    generate_from: Text = Field(
        default="both",
        description="Whose answer: 'base', a quantized variant's name ('quantized': the first), or 'both': the base "
        "and every variant.",
    )
    temperature: float = Field(
        default=0.0, ge=0, le=MAX_TEMPERATURE, description="0 takes the likeliest token; 1 draws from the distribution."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Draws only from the likeliest tokens that together have this probability."
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="Of what is drawn, for all models alike. Default: another each time."
    )
    stop: Annotated[list[Text], Field(min_length=1, max_length=MAX_STOPS, fail_fast=True)] | Text | None = Field(
        default=None, description="Texts that end an answer, and are left out of it."
    )
    ignore_eos: bool = Field(default=False, description="Whether an answer goes on after a token that ends texts.")
    stream: bool = Field(
        default=False, description="Whether tokens are sent as server-sent events as they come. Not in batches."
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
        if not self.max_tokens:
            for name in GENERATING:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise invalid(name, f"{name!r} needs 'max_tokens' of at least 1")
        stop_texts(self.stop)
        return self

    @property
    def stop_texts(self) -> list[str]:
        """Texts that end an answer."""
        return stop_texts(self.stop)


class BatchRequest(Request):
    """Many comparisons at once. Each entry is checked on its own, so that one bad entry does not lose the others."""

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BATCH, fail_fast=True)] = Field(
        description="Bodies of /compare."
    )


IGNORED = "Ignored: both models have the same tokenizer."


class TokenizeRequest(Chat):
    """A text or chat to split into tokens; the fields are vLLM's, except for ``continuation``.

    Both models have the same tokenizer: ``model`` is ignored.
    """

    prompt: TextOrIds | None = Field(
        default=None, description="Text to split, or at most 524,288 token ids. Exactly one of prompt and messages."
    )
    continuation: Text | None = Field(
        default=None, description="Text after the prompt. Both are split as /compare splits them."
    )
    add_special_tokens: bool = Field(default=True, description="As in /compare.")
    return_token_strs: bool = Field(default=False, description="Whether each token's own text is returned.")
    model: str | None = Field(default=None, description=IGNORED)

    @model_validator(mode="after")
    def _check(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "expected exactly one of 'prompt' and 'messages'")
        if isinstance(self.prompt, list) and len(self.prompt) > MAX_DETOKENIZED:
            raise invalid("prompt", f"'prompt' has {len(self.prompt)} ids, expected at most {MAX_DETOKENIZED}")
        return self


class DetokenizeRequest(Request):
    """Token ids to join into text; the fields are vLLM's."""

    tokens: Annotated[list[int], Field(min_length=1, max_length=MAX_DETOKENIZED, fail_fast=True)] = Field(
        description="Token ids to join."
    )
    model: str | None = Field(default=None, description=IGNORED)
