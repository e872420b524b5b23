"""Text to token ids and back, for requests: every token boundary is decided here.

A continuation is tokenized in its context as lm-evaluation-harness does it: context and continuation are encoded
together, then split at the length of the encoded context, so that scores agree with the harness token by token.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from qconf.wire import CompareRequest, TokenizerInfo
from server.errors import InvalidRequest


@dataclass(frozen=True)
class Continuation:
    """One candidate: its text as the client gave it (decoded, if ids came) and its token ids after the context."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class Sequences:
    """What a request asks to be scored: a context and the continuations that follow it, each on its own."""

    context: list[int]
    continuations: list[Continuation]


class PairTokenizer:
    """The tokenizer that both models share, with the limits of the engine. Not thread-safe: use one thread."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, max_model_len: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_model_len = max_model_len
        self._text = lru_cache(maxsize=None)(self._decode_one)

    def sequences(self, request: CompareRequest) -> Sequences:
        """Token ids of all that the request asks for; InvalidRequest names the field that cannot be tokenized."""
        field = "prompt" if request.messages is None else "messages"
        prompt = request.prompt if request.messages is None else self._render(request)
        special = request.add_special_tokens and request.messages is None
        if request.continuations is None:
            context = self._ids(prompt, field, special)
            if not context:
                raise InvalidRequest(f"{field!r} is empty: expected at least one token to score", field)
            self.check_length(len(context), field)
            return Sequences(context, [])

        pairs = [
            self._pair(prompt, continuation, field, f"continuations[{i}]", special)
            for i, continuation in enumerate(request.continuations)
        ]
        for i, (context, continuation) in enumerate(pairs):
            if not continuation.token_ids:
                raise InvalidRequest(
                    f"'continuations[{i}]' is {continuation.text!r}, which adds no token to the prompt: "
                    "expected at least one (is a space missing before it?)",
                    f"continuations[{i}]",
                )
            self.check_length(len(context) + len(continuation.token_ids), f"continuations[{i}]")
        return Sequences(pairs[0][0], [continuation for _, continuation in pairs])

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: list[int]) -> str:
        """Text of token ids, special tokens included."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def texts(self, token_ids: list[int]) -> list[str]:
        """The text of each token on its own; a part of a UTF-8 character decodes to U+FFFD."""
        return [self._text(token_id) for token_id in token_ids]

    def _decode_one(self, token_id: int) -> str:
        text = self.decode([token_id])
        # SentencePiece decoders drop the space that begins a text, and so that of every token on its own.
        begins_word = str(self._tokenizer.convert_ids_to_tokens(token_id)).startswith("▁")
        return f" {text}" if begins_word and not text.startswith(" ") else text

    def check_ids(self, token_ids: list[int], field: str) -> list[int]:
        """The same ids, or InvalidRequest if one is outside the vocabulary."""
        for i, token_id in enumerate(token_ids):
            if not 0 <= token_id < self._vocab_size:
                raise InvalidRequest(
                    f"'{field}[{i}]' is {token_id}, expected a token id from 0 to {self._vocab_size - 1}", field
                )
        return token_ids

    def info(self) -> TokenizerInfo:
        """Facts about the tokenizer."""
        tokenizer = self._tokenizer
        return TokenizerInfo(
            tokenizer_class=type(tokenizer).__name__,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            pad_token=tokenizer.pad_token,
            unk_token=tokenizer.unk_token,
            chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        )

    def _render(self, request: CompareRequest) -> str:
        if not self._tokenizer.chat_template:
            raise InvalidRequest("'messages' needs a chat template, and this model's tokenizer has none", "messages")
        messages: list[dict[str, Any]] = [message.model_dump() for message in request.messages or []]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates are code of the checkpoint and raise what they like
            raise InvalidRequest(f"the chat template refused 'messages': {error}", "messages") from error
        return str(text)

    def _ids(self, prompt: str | list[int] | None, field: str, special: bool) -> list[int]:
        if isinstance(prompt, list):
            return self.check_ids(prompt, field)
        return self.encode(prompt or "", special)

    def _pair(
        self, prompt: str | list[int] | None, continuation: str | list[int], field: str, name: str, special: bool
    ) -> tuple[list[int], Continuation]:
        if isinstance(continuation, list):
            ids = self.check_ids(continuation, name)
            return self._ids(prompt, field, special) or self._prefix(field), Continuation(self.decode(ids), ids)
        if isinstance(prompt, list):
            ids = self.encode(continuation, add_special_tokens=False)
            return self.check_ids(prompt, field), Continuation(continuation, ids)
        return self._split(prompt or "", continuation, field, special)

    def _split(self, prompt: str, continuation: str, field: str, special: bool) -> tuple[list[int], Continuation]:
        context = prompt.rstrip()
        # White space at the end of the context belongs to the continuation's first token.
        text = prompt[len(context) :] + continuation
        if not context:
            return self._prefix(field), Continuation(continuation, self.encode(text, add_special_tokens=False))
        ids = self.encode(context, special)
        return ids, Continuation(continuation, self.encode(context + text, special)[len(ids) :])

    def _prefix(self, field: str) -> list[int]:
        """What stands before a continuation without context: the token that begins, or else ends, a text."""
        for token_id in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token_id is not None:
                return [int(token_id)]
        raise InvalidRequest(f"{field!r} is empty, and this tokenizer has no token that begins a text", field)

    def check_length(self, length: int, field: str) -> None:
        """InvalidRequest if a sequence of that many tokens is longer than the models' context."""
        if length > self._max_model_len:
            raise InvalidRequest(
                f"{field!r} makes a sequence of {length} tokens, expected at most {self._max_model_len}", field
            )
