"""Token boundaries of requests, against lm-evaluation-harness's own function."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qconf.wire import CompareRequest
from server.errors import InvalidRequest
from server.scoring.tokenization import PairTokenizer
from tests.pairs import CONTEXT, TOKENIZER, VOCABULARY

PROMPTS = ["The quick brown fox", "Question: why?\nAnswer:", "ends in a space ", "two  \n", " x", "naïve 東京 🦊"]
CONTINUATIONS = [" jumps", "jumps over", "\nno", "  two spaces", "s", "🦊 fox"]


@pytest.fixture(scope="module")
def hf_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture
def tokenizer(hf_tokenizer: Any) -> PairTokenizer:
    return PairTokenizer(hf_tokenizer, VOCABULARY, CONTEXT)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_continuations_are_split_as_the_harness_splits_them(
    hf_tokenizer: Any, tokenizer: PairTokenizer, prompt: str
) -> None:
    from lm_eval.api.model import TemplateLM  # type: ignore[import-untyped]

    class Harness(TemplateLM):  # type: ignore[misc]
        backend = "causal"
        eot_token_id = 1

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return list(hf_tokenizer.encode(string))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any: ...
        def loglikelihood_rolling(self, requests: Any, **_: Any) -> Any: ...
        def generate_until(self, requests: Any, **_: Any) -> Any: ...

    sequences = tokenizer.sequences(CompareRequest(prompt=prompt, continuations=[*CONTINUATIONS]))
    for text, ours in zip(CONTINUATIONS, sequences.continuations, strict=True):
        context, continuation = Harness()._encode_pair(prompt, text)
        assert (sequences.context, ours.token_ids) == (context, continuation)
        assert ours.text == text


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
