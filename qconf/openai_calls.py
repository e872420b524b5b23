"""Calls of OpenAI's completions that other programs wrote, their answers, and what is scored of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qconf.wire import CompareRequest, Message, Request, Text, TokenIds, invalid
from qconf.wire.fields import MAX_BATCH, MAX_CONTINUATIONS, MAX_MESSAGES, MAX_TOKENS

Part = Literal["answer_ids", "answer_text", "prompt"]
Reason = Literal["tools", "media", "echo"]
SOURCE_CHARACTERS = 100
SOURCE_MEANING = (
    "Where the call comes from: noted by the recorder, and a label of metrics, there as 'other' unless the server "
    "declares it (--shadow-source)."
)
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(max_length=MAX_TOKENS, fail_fast=True)]


class NotScorable(Exception):
    """The call has something that its tokens cannot be told from here."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Foreign(BaseModel):
    """Base of what other programs wrote: fields that decide nothing here are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)


class CallMessage(Foreign):
    """A message of a chat, with text, parts or calls of tools."""

    role: str
    content: Text | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Call(Foreign):
    """The body of a call of OpenAI's completions or chat completions. Other fields are ignored."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_BATCH)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_BATCH)]
        | None
    ) = Field(default=None, description="Of completions: text, token ids, or a list of either.")
    messages: Annotated[list[CallMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = Field(
        default=None, description="Of chat completions."
    )
    user: str | None = Field(default=None, description="The key of sampling, where no other is given.")
    tools: list[dict[str, Any]] | None = Field(
        default=None, description="A call with tools is scored only by its token ids."
    )
    echo: bool | None = Field(default=None, description="A call with it is scored only by its token ids.")
    n: Annotated[int, Field(ge=1, le=MAX_CONTINUATIONS)] | None = Field(
        default=None, description="Of several answers to a prompt, the first is scored."
    )

    @model_validator(mode="after")
    def _check(self) -> "Call":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "expected exactly one of 'prompt' and 'messages'")
        return self

    @property
    def key(self) -> str:
        """What stays the same from call to call: the user, else the prompt, of a chat up to its first question."""
        if self.user:
            return self.user
        if self.messages is None:
            return json.dumps(self.prompt)
        first = next((i for i, message in enumerate(self.messages) if message.role == "user"), 0)
        return json.dumps([message.content for message in self.messages[: first + 1]])


class CallReplyMessage(Foreign):
    """The message of a chat completion's choice."""

    content: Text | None = None
    tool_calls: list[dict[str, Any]] | None = None


class CallReplyChoice(Foreign):
    """One answer. vLLM adds token ids where ``return_token_ids`` is asked for."""

    text: Text | None = None
    message: CallReplyMessage | None = None
    token_ids: Ids | None = None
    prompt_token_ids: Ids | None = None


class CallReply(Foreign):
    """The body that a call was answered with. Other fields are ignored."""

    choices: Annotated[list[CallReplyChoice], Field(max_length=MAX_BATCH * MAX_CONTINUATIONS)]
    prompt_token_ids: Ids | None = None


class ObserveRequest(Request):
    """A call that another server answered, and its answer."""

    request: Call = Field(description="Body of a call of OpenAI's completions or chat completions.")
    response: CallReply | None = Field(
        default=None, description="Body of its answer, which is scored then; without one, the prompt is."
    )
    key: str | None = Field(
        default=None,
        description="What stays the same from call to call, such as a user or a session: calls of the same keys are "
        "scored. Default: the call's 'user', else its prompt, of a chat up to the first question.",
    )
    source: Annotated[str, Field(max_length=SOURCE_CHARACTERS)] = Field(default="observe", description=SOURCE_MEANING)


@dataclass(frozen=True)
class ToScore:
    """What is scored of a call: comparisons, one for each prompt, and what part of them."""

    requests: Sequence[CompareRequest]
    part: Part


def to_score(call: Call, answer: CallReply | None) -> ToScore:
    """Return what is scored of a call: the answer's tokens, where there is one, else the prompt's.

    Raises NotScorable.
    """
    choices = [] if answer is None else answer.choices[:: call.n or 1]
    if answer is not None and (by_ids := _by_ids(answer, choices)):
        return ToScore(by_ids, "answer_ids")
    prompts = _prompts(call)
    texts = [_text(choice) for choice in choices]
    if call.echo and texts:
        raise NotScorable("echo")
    if len(texts) == len(prompts) and all(texts):
        answered = zip(prompts, texts, strict=True)
        return ToScore([_request({**prompt, "continuations": [text]}) for prompt, text in answered], "answer_text")
    return ToScore([_request(prompt) for prompt in prompts], "prompt")


def _by_ids(answer: CallReply, choices: Sequence[CallReplyChoice]) -> list[CompareRequest]:
    """Return the comparisons of answers that all have their token ids, else none."""
    pairs = [(choice.prompt_token_ids or answer.prompt_token_ids, choice.token_ids) for choice in choices]
    if not all(prompt and ids for prompt, ids in pairs):
        return []
    return [_request({"prompt": prompt, "continuations": [ids]}) for prompt, ids in pairs]


def _request(fields: dict[str, Any]) -> CompareRequest:
    return CompareRequest.model_validate({**fields, "detail": "summary"})


def _prompts(call: Call) -> list[dict[str, Any]]:
    if call.messages is not None:
        if call.tools:
            raise NotScorable("tools")
        return [{"messages": [_message(message) for message in call.messages]}]
    prompt = call.prompt
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    return [{"prompt": each} for each in (prompt if several and isinstance(prompt, list) else [prompt])]


def _message(message: CallMessage) -> Message:
    if message.tool_calls or message.content is None:
        raise NotScorable("tools")
    if isinstance(message.content, str):
        return Message(role=message.role, content=message.content)
    if any(part.get("type") != "text" for part in message.content):
        raise NotScorable("media")
    return Message(role=message.role, content="".join(str(part.get("text", "")) for part in message.content))


def _text(choice: CallReplyChoice) -> str | None:
    if choice.message is None:
        return choice.text
    if choice.message.tool_calls:
        raise NotScorable("tools")
    return choice.message.content
