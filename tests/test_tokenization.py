"""Token boundaries of requests, against lm-evaluation-harness's own function."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qconf.wire import CompareRequest
from server.errors import InvalidRequest
from server.scoring.tokenization import PairTokenizer
from tests.pairs import CONTEXT, TOKENIZER, VOCABULARY

PROMPTS = ["The quick brown fox", "Question: why?\nAnswer:", "ends in a space ", "two  \n", " x", "naïve 東京 🦊"]
CONTINUATIONS = [" jumps", "jumps over", "\nno", "  two spaces", "s", "🦊 fox"]

TEXT = st.text(max_size=30) | st.text(alphabet=" \n\tab.", max_size=30)
Split = Callable[[str, str], tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def hf_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def tokenizer(hf_tokenizer: Any) -> PairTokenizer:
    return PairTokenizer(hf_tokenizer, VOCABULARY, CONTEXT)


@pytest.fixture(scope="module")
def split(hf_tokenizer: Any) -> Split:
    """The harness's own function."""
    from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]

    class Harness(TemplateLM):  # type: ignore[misc]
        backend = "causal"
        eot_token_id = 1

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return list(hf_tokenizer.encode(string))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any: ...
        def loglikelihood_rolling(self, requests: Any, **_: Any) -> Any: ...
        def generate_until(self, requests: Any, **_: Any) -> Any: ...

    return Harness()._encode_pair  # type: ignore[no-any-return]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_continuations_are_split_as_the_harness_splits_them(
    split: Split, tokenizer: PairTokenizer, prompt: str
) -> None:
    sequences = tokenizer.sequences(CompareRequest(prompt=prompt, continuations=[*CONTINUATIONS]))
    for text, ours in zip(CONTINUATIONS, sequences.continuations, strict=True):
        context, continuation = split(prompt, text)
        assert (sequences.context, ours.token_ids) == (context, continuation)
        assert ours.text == text


def test_any_texts_are_split_as_the_harness_splits_them(
    split: Split, hf_tokenizer: Any, tokenizer: PairTokenizer
) -> None:
    split_texts = 0

    @settings(max_examples=500, derandomize=True, database=None, deadline=None)
    @given(TEXT, TEXT)
    def check(prompt: str, text: str) -> None:
        nonlocal split_texts
        try:
            sequences = tokenizer.sequences(CompareRequest(prompt=prompt, continuations=[text]))
        except InvalidRequest:
            assert not text or not split(prompt, text)[1]
            return
        ours = sequences.continuations[0].token_ids
        if prompt.rstrip():
            assert (sequences.context, ours) == split(prompt, text)
            assert len(sequences.context) + len(ours) == len(hf_tokenizer.encode(prompt + text))
        else:
            assert sequences.context == [hf_tokenizer.bos_token_id]
            assert ours == hf_tokenizer.encode(prompt + text, add_special_tokens=False)
        split_texts += 1

    check()
    assert split_texts > 300


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(text=TEXT)
def test_any_text_comes_back_from_its_tokens(tokenizer: PairTokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokenizer.check_ids(ids, "tokens")) == text
    texts = tokenizer.texts(ids)
    assert len(texts) == len(ids)
    if text.isascii():
        assert "".join(texts) == text


@settings(max_examples=500, derandomize=True, database=None, deadline=None)
@given(ids=st.lists(st.integers(-2, VOCABULARY + 1), max_size=20))
def test_any_ids_are_a_text_or_refused(tokenizer: PairTokenizer, ids: list[int]) -> None:
    if all(0 <= each < VOCABULARY for each in ids):
        assert len(tokenizer.texts(tokenizer.check_ids(ids, "tokens"))) == len(ids)
        tokenizer.decode(ids).encode()
    else:
        with pytest.raises(InvalidRequest, match="expected a token id from 0 to"):
            tokenizer.check_ids(ids, "tokens")


def test_ids_are_taken_as_they_are(tokenizer: PairTokenizer) -> None:
    sequences = tokenizer.sequences(CompareRequest(prompt=[5, 6], continuations=[[7], " x"]))
    assert sequences.context == [5, 6]
    assert sequences.continuations[0].token_ids == [7]
    assert sequences.continuations[1].token_ids == tokenizer.encode(" x", add_special_tokens=False)


def test_a_continuation_that_merges_into_the_prompt_is_refused(tokenizer: PairTokenizer) -> None:
    whole = tokenizer.encode("he", add_special_tokens=False)
    assert len(whole) == 1
    with pytest.raises(InvalidRequest, match="adds no token") as caught:
        tokenizer.sequences(CompareRequest(prompt="h", continuations=["e"]))
    assert caught.value.detail.param == "continuations[0]"


def test_an_empty_context_becomes_the_token_that_begins_a_text(hf_tokenizer: Any, tokenizer: PairTokenizer) -> None:
    sequences = tokenizer.sequences(CompareRequest(prompt="", continuations=["the"]))
    assert sequences.context == [hf_tokenizer.bos_token_id]


def test_tokens_of_a_sentencepiece_tokenizer_keep_their_space() -> None:
    backend = Tokenizer(models.WordLevel({"▁the": 0, "▁stone": 1, "s": 2}, unk_token="s"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PairTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), 3, CONTEXT)
    assert tokenizer.texts([0, 1, 2]) == [" the", " stone", "s"]
