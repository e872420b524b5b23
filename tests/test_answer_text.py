"""The text of an answer, token by token, agrees with the text of all its tokens, and ends before a stop text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qconf.demo import PAIR
from server.scoring.answer_text import AnswerText

TEXT = "Anna, sagt \U0001f469\u200d\U0001f680, ißt Brötchen …\nund 漢字 too"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(PAIR / "base")


def answer(tokenizer: PreTrainedTokenizerBase, *stops: str) -> AnswerText:
    return AnswerText(lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)), [5, 6], stops)


def test_parts_join_to_the_text_and_no_character_is_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    text = answer(tokenizer)
    parts = [text.add(token_id) for token_id in ids] + [text.finish()]
    assert "".join(parts) == text.text == TEXT
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)
    assert "" in parts  # a character of several tokens comes with the last


def test_an_incomplete_character_at_the_end_is_not_lost(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer.encode("漢", add_special_tokens=False)
    text = answer(tokenizer)
    assert text.add(ids[0]) == ""
    assert text.finish() == text.text == "\N{REPLACEMENT CHARACTER}"


@given(st.text("ab", min_size=1, max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_it_ends_before_the_first_stop_text_and_sends_none_of_it(written: str, stops: list[str]) -> None:
    text = AnswerText(lambda ids: "".join(map(chr, ids)), [1], stops)
    sent = ""
    for character in written:
        sent += text.add(ord(character))
        assert text.text.startswith(sent)
        if text.stopped:
            break
    sent += text.finish()
    ends = [at + len(stop) for stop in stops if (at := written.find(stop)) >= 0]
    begins = [at for stop in stops if (at := written.find(stop)) >= 0 and at + len(stop) == min(ends)]
    assert text.stopped == bool(ends)
    assert sent == text.text == (written[: min(begins)] if ends else written)


def test_a_copy_goes_on_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    first, second, third = tokenizer.encode("one two three", add_special_tokens=False)[:3]
    text = answer(tokenizer)
    text.add(first)
    other = text.copy()
    text.add(second)
    other.add(third)
    assert text.text == tokenizer.decode([first, second])
    assert other.text == tokenizer.decode([first, third])
