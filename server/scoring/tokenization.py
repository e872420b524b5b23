"""Text to token ids and back: every token boundary of a request is decided here.

A continuation is tokenized in its context as lm-evaluation-harness does it: context and continuation are encoded
together, then split at the length of the encoded context, so that scores agree with the harness token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Event
from typing import Any

from transformers import PreTrainedTokenizerBase

from qconf.wire import Chat, CompareRequest, TokenizeRequest, TokenizerInfo
from server.errors import InvalidRequest
from server.scoring.answer_text import AnswerText

NEVER = Event()
NO_TEMPLATE = (
    "'messages' needs a chat template, and this model's tokenizer has none: send the text of the chat as 'prompt', or "
    "serve the model with a template, as chat_template.jinja in the base's folder"
)


class Cancelled(Exception):
    """Nobody waits for the tokens any more."""


@dataclass(frozen=True)
class Continuation:
    """One candidate: its text as the client gave it (decoded, if ids came) and its token ids after the context."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class Sequences:
    """What a request asks to be scored: a context and the continuations that follow it, each on its own; and the prompt
    of answers, if any are to be generated: all of it, where the context may lack white space at its end."""

    context: list[int]
    continuations: list[Continuation]
    prompt: list[int]


class PairTokenizer:
    """The tokenizer that both models share, with the limits of the engine. Not thread-safe: use one thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._text = lru_cache(maxsize=None)(self._decode_one)

    def sequences(self, request: CompareRequest, cancelled: Event = NEVER) -> Sequences:
        """Tokenize everything in the request; InvalidRequest names the field that cannot be tokenized.

        Stops with Cancelled once ``cancelled`` is set.
        """
        prompt, field, special = self._given(request)
        if request.continuations is None:
            context = self.ids(prompt, field, special)
            if not context:
                raise InvalidRequest(f"{field!r} is empty: expected at least one token to score", field)
            self.check_length(len(context), field, request.max_tokens)
            return Sequences(context, [], context)

        split = _Split(self, prompt, field, special)
        continuations = []
        for i, given in enumerate(request.continuations):
            if cancelled.is_set():
                raise Cancelled
            continuations.append(split.continuation(given, f"continuations[{i}]"))
        return Sequences(split.context(), continuations, self._prompt(prompt, field, special, request.max_tokens))

    def split(self, request: TokenizeRequest) -> tuple[list[int], list[int] | None]:
        """Return the ids of a text or chat, which may be empty, and those of its continuation, where there is one."""
        prompt, field, special = self._given(request)
        if request.continuation is None:
            return self.ids(prompt, field, special), None
        split = _Split(self, prompt, field, special)
        continuation = split.continuation(request.continuation, "continuation")
        return split.context(), continuation.token_ids

    def _given(self, request: CompareRequest | TokenizeRequest) -> tuple[str | list[int] | None, str, bool]:
        """Return the prompt or the text of the chat, the field that it is from, and whether special tokens are added:
        templates write their own."""
        if request.messages is None:
            return request.prompt, "prompt", request.add_special_tokens
        return self.render(request), "messages", False

    def _prompt(self, prompt: str | list[int] | None, field: str, special: bool, max_tokens: int) -> list[int]:
        if not max_tokens:
            return []
        ids = self.ids(prompt, field, special) or self.prefix(field)
        self.check_length(len(ids), field, max_tokens)
        return ids

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Tokenize a text of any length."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def encode_to_score(self, text: str, add_special_tokens: bool, field: str) -> list[int]:
        """Tokenize a text. A text that cannot fit into the models' context is refused before that."""
        most = self._max_model_len * self._longest_token
        if len(text) > most:
            raise InvalidRequest(
                f"{field!r} makes a text of {len(text)} characters, expected at most {self._max_model_len} tokens, "
                f"and those have at most {most} characters",
                field,
            )
        return self.encode(text, add_special_tokens)

    def decode(self, token_ids: list[int]) -> str:
        """Decode token ids, special tokens included."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def answer(self, context: list[int], stops: Sequence[str]) -> AnswerText:
        """Return the text, empty as yet, of an answer to a context; special tokens are left out of it."""
        return AnswerText(self._decode_answer, context, stops)

    def _decode_answer(self, token_ids: list[int]) -> str:
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def texts(self, token_ids: list[int]) -> list[str]:
        """Decode each token on its own; a part of a UTF-8 character decodes to U+FFFD."""
        return [self._text(token_id) for token_id in token_ids]

    def _decode_one(self, token_id: int) -> str:
        text = self.decode([token_id])
        # SentencePiece decoders drop the space that begins a text, and so that of every token on its own.
        begins_word = str(self._tokenizer.convert_ids_to_tokens(token_id)).startswith("▁")
        return f" {text}" if begins_word and not text.startswith(" ") else text

    def check_ids(self, token_ids: list[int], field: str) -> list[int]:
        """Return the same ids, or raise InvalidRequest if one is outside the vocabulary."""
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._vocab_size:
                raise InvalidRequest(
                    f"'{field}[{i}]' is {token_id}, expected a token id from 0 to {self._vocab_size - 1}", field
                )
        return token_ids

    def info(self, eos_token_ids: Sequence[int]) -> TokenizerInfo:
        """Describe the tokenizer; the base model ends its texts with one of these ids."""
        tokenizer = self._tokenizer
        return TokenizerInfo(
            tokenizer_class=type(tokenizer).__name__,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            eos_token_ids=list(eos_token_ids),
            pad_token=tokenizer.pad_token,
            unk_token=tokenizer.unk_token,
            chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        )

    def render(self, chat: Chat) -> str:
        """Write a chat with the tokenizer's template."""
        if not self._tokenizer.chat_template:
            raise InvalidRequest(NO_TEMPLATE, "messages")
        messages: list[dict[str, Any]] = [message.model_dump() for message in chat.messages or []]
        try:
            text = self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=chat.answer_begins,
                continue_final_message=chat.continue_final_message,
            )
        except Exception as error:  # templates are code of the checkpoint and raise what they like
            raise InvalidRequest(f"the chat template refused 'messages': {error}", "messages") from error
        return str(text)

    def ids(self, prompt: str | list[int] | None, field: str, special: bool) -> list[int]:
        """Return the token ids of a prompt in either form."""
        if isinstance(prompt, list):
            return self.check_ids(prompt, field)
        return self.encode_to_score(prompt or "", special, field)

    def prefix(self, field: str) -> list[int]:
        """Return what precedes a continuation without context: the token that begins texts, or else ends them."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [int(token_id)]
        raise InvalidRequest(f"{field!r} is empty, and this tokenizer has no token that begins a text", field)

    def check_length(self, length: int, field: str, max_tokens: int = 0) -> None:
        """Raise InvalidRequest if a sequence of that many tokens, and an answer, are longer than the context."""
        if max_tokens and length + max_tokens > self._max_model_len:
            raise InvalidRequest(
                f"'max_tokens' is {max_tokens} after the {length} tokens of {field!r}, "
                f"expected at most {self._max_model_len} together",
                "max_tokens",
            )
        if length > self._max_model_len:
            raise InvalidRequest(
                f"{field!r} makes a sequence of {length} tokens, expected at most {self._max_model_len}", field
            )


class _Split:
    """Splits continuations off one prompt, whose context is encoded once."""

    def __init__(self, tokenizer: PairTokenizer, prompt: str | list[int] | None, field: str, special: bool) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt or ""
        self._field = field
        self._special = special
        self._contexts: list[list[int]] = []

    def context(self) -> list[int]:
        """Return the ids that precede all continuations."""
        return self._contexts[0]

    def continuation(self, given: str | list[int], name: str) -> Continuation:
        """Tokenize the continuation that the request calls ``name``."""
        tokenizer = self._tokenizer
        if isinstance(given, list):
            context, ids, text = self._before_ids, tokenizer.check_ids(given, name), tokenizer.decode(given)
        elif isinstance(self._prompt, list):
            context, ids, text = self._before_ids, tokenizer.encode_to_score(given, False, name), given
        else:
            context, ids, text = self._before_text, self._after_text(given, name), given
        if not ids:
            raise InvalidRequest(
                f"{name!r} is {text!r}, which adds no token to the prompt: "
                "expected at least one (is a space missing before it?)",
                name,
            )
        self._contexts = [*self._contexts[:1], context]
        if context != self.context():
            raise InvalidRequest(
                f"{name!r}: texts and token ids cannot be mixed here: the white space at the end of {self._field!r} "
                "belongs to the first token of a text, but to the prompt before token ids",
                name,
            )
        tokenizer.check_length(len(context) + len(ids), name)
        return Continuation(text, ids)

    @cached_property
    def _before_ids(self) -> list[int]:
        return self._tokenizer.ids(self._prompt, self._field, self._special) or self._tokenizer.prefix(self._field)

    @cached_property
    def _before_text(self) -> list[int]:
        stripped = str(self._prompt).rstrip()
        if not stripped:
            return self._tokenizer.prefix(self._field)
        return self._tokenizer.encode_to_score(stripped, self._special, self._field)

    def _after_text(self, given: str, name: str) -> list[int]:
        prompt = str(self._prompt)
        stripped = prompt.rstrip()
        if not stripped:
            return self._tokenizer.encode_to_score(prompt + given, False, name)
        # White space at the end of the context belongs to the continuation's first token.
        return self._tokenizer.encode_to_score(prompt + given, self._special, name)[len(self._before_text) :]
