"""Comparisons as HTML and in the terminal: colours, contrast, escaping, and the same numbers as in the reply."""

import io
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from client.compare.display import print_comparison
from client.compare.tokens import FORK, colored
from qconf.show.html import MOST_TOKENS, comparison_html, comparison_page
from qconf.show.quantities import KL, QUANTITIES, Quantity
from qconf.show.scale import BLACK, SEQUENTIAL, WHITE, Color, contrast, on_scale, text_on
from qconf.show.text import quoted, visible, visible_token
from qconf.wire import Comparison, TokenComparison
from tests.fake_server import compare

CHROMIUM = shutil.which("chromium")
HOSTILE = [
    "<script>document.title = 1</script>",
    "\"><img src=x onerror='document.title = 1'>",
    "\x1b[31m",
    "\u202e",
    "\n",
]
VOID = {"meta", "br"}


def reply(continuations: list[list[int]] | None = None, variants: tuple[str, ...] = ("quantized",)) -> Any:
    """Return a made-up reply; its tokens can be changed."""
    made = compare({"prompt": "?", "continuations": continuations or [[5, 6, 7, 8, 9], [1]], "label": 1}, variants)
    base, quantized = (
        max((0, 1), key=lambda index: made["continuations"][index][side]["logprob"]) for side in ("base", "quantized")
    )
    correct = {"base": base == 1, "quantized": quantized == 1}
    made["choice"] = {"base": base, "quantized": quantized, "flip": base != quantized, "label": 1,
                      "correct": correct, "label_confidence": {"base": 0.5, "quantized": 0.5}}  # fmt: skip
    return made


def hostile() -> Comparison:
    """Return a comparison that has hostile texts wherever a text may be, and the first token without numbers."""
    made = reply()
    made["models"]["base"]["root"] = HOSTILE[0]
    made["continuations"][0]["text"] = "".join(HOSTILE)
    scores = made["continuations"][0]["scores"]
    scores["tokens"] = HOSTILE
    made["prompt"] = scores | {"kl": [None, *scores["kl"][1:]]}
    top = [{"token_ids": [number], "tokens": [text], "logprobs": [-1.0]} for number, text in enumerate(HOSTILE)]
    for model in ("base", "quantized"):
        scores[model]["top"] = top
    answer = {"text": "".join(HOSTILE), "token_ids": [5, 6, 7, 8, 9], "finish_reason": "length"}
    answer |= {"summary": made["summary"], "scores": scores}
    fork = {"index": 2, "token_ids": {"base": 7, "quantized": 8}, "tokens": {"base": HOSTILE[0], "quantized": "b"}}
    fork |= {"kl": 0.5, "top": {"base": top[0], "quantized": top[1]}}
    made["generation"] = {"base": answer, "quantized": answer, "fork": fork, "common_prefix": 2, "length_ratio": 1.0}
    made["generation"] |= {"acceptance": 0.75, "seed": 3}
    return Comparison.model_validate(made)


def scores_of(comparison: Comparison) -> TokenComparison:
    assert comparison.prompt is not None
    return comparison.prompt


@dataclass
class Element:
    """An element with what it contains."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    inside: list["Element"] = field(default_factory=list)


class Tree(HTMLParser):
    """The elements of a document, which must be nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        for outer in self._open:
            outer.inside.append(element)
        self.all.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for outer in self._open:
            outer.text += data

    def of_class(self, name: str) -> list[Element]:
        return [each for each in self.all if name in each.attributes.get("class", "").split()]

    def drawn(self) -> list[list[Element]]:
        """Return the elements of the tokens, text by text."""
        return [[each for each in text.inside if each.tag == "span"] for text in self.of_class("tokens")]


def background(color: Color) -> str:
    return f"background:{color.hex};color:{text_on(color).hex}"


def luminance(color: Color) -> float:
    """Return a number that rises with WCAG's relative luminance: the contrast with black."""
    return contrast(color, BLACK)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast(BLACK, WHITE) == contrast(WHITE, BLACK) == pytest.approx(21)
    # The greys between which 4.5 to 1 on white lies, from WCAG's own examples.
    assert contrast(Color(0x76, 0x76, 0x76), WHITE) == pytest.approx(4.54, abs=0.005)
    assert contrast(Color(0x77, 0x77, 0x77), WHITE) == pytest.approx(4.48, abs=0.005)


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_text_can_be_read_on_every_color(parts: tuple[int, int, int]) -> None:
    color = Color(*parts)
    assert contrast(text_on(color), color) >= 4.5


def test_a_scale_ends_at_its_ends() -> None:
    assert [on_scale(SEQUENTIAL, place) for place in (-1, 0, 0.125, 1, 2)] == [
        SEQUENTIAL[0], SEQUENTIAL[0], SEQUENTIAL[1], SEQUENTIAL[-1], SEQUENTIAL[-1]
    ]  # fmt: skip


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
def test_a_larger_value_is_darker(quantity: Quantity) -> None:
    """Of differences on either side, and the sides differ in hue."""
    sizes = [quantity.full * step / 40 for step in range(41)]
    for sign in (1, -1) if quantity.diverging else (1,):
        shades = [luminance(quantity.color(sign * size)) for size in sizes]
        assert all(darker < lighter for lighter, darker in pairwise(shades))
        assert quantity.color(sign * 2 * quantity.full) == quantity.color(sign * quantity.full)
    if quantity.diverging:
        more, less = quantity.color(quantity.full), quantity.color(-quantity.full)
        assert more.red > more.blue
        assert less.blue > less.red
    assert quantity.legend() == sorted(quantity.legend())
    assert {0.0, quantity.full} <= set(quantity.legend())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a é 世 \t\n", "a é 世 \t\n"),
        ("\x1b[2J\r\x7f\x9b", "\\u001b[2J\\u000d\\u007f\\u009b"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
    ],
)
def test_characters_that_control_are_escaped(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_texts_are_quoted_on_one_line() -> None:
    assert quoted(' a"\n\u202e') == '" a\\"\\n\\u202e"'


def test_every_text_is_escaped() -> None:
    tree = Tree(comparison_html(hostile()))
    assert {each.tag for each in tree.all} <= {
        "div", "style", "table", "thead", "tbody", "tr", "th", "td", "p", "span", "h4", "small", "b", "i", "br"
    }  # fmt: skip
    assert {name for each in tree.all for name in each.attributes} <= {"class", "style", "title"}
    everything = tree.all[0].text
    assert HOSTILE[0] in everything
    assert "\x1b" not in everything + "".join(each.attributes.get("title", "") for each in tree.all)
    assert "\u202e" not in everything


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_a_browser_runs_nothing_of_it(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(comparison_page(hostile()), encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    tree = Tree(done.stdout)
    assert [each.text for each in tree.all if each.tag == "title"] == ["Comparison"]
    assert not {"script", "img"} & {each.tag for each in tree.all}
    assert [each.text for each in tree.drawn()[0]] == [visible_token(text) for text in HOSTILE]


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=QUANTITIES)
def test_the_background_is_the_quantity(quantity: Quantity) -> None:
    comparison = hostile()
    prompt, *_ = Tree(comparison_html(comparison, quantity)).drawn()
    assert [each.text for each in prompt] == [visible_token(text) for text in HOSTILE]
    values = quantity.column(scores_of(comparison))
    styles = ["" if value is None else background(quantity.color(value)) for value in values]
    assert [each.attributes.get("style", "") for each in prompt] == styles
    on_terminal = colored(scores_of(comparison), quantity)
    found = {span.start: span.style for span in on_terminal.spans}
    starts = [sum(len(visible_token(text)) for text in HOSTILE[:index]) for index in range(len(HOSTILE))]
    for start, value in zip(starts, values, strict=True):
        if value is not None:
            color = quantity.color(value)
            assert str(found.pop(start)) == f"{text_on(color).hex} on {color.hex}"
    assert not found


def test_a_tokens_title_has_the_numbers_of_both_models() -> None:
    comparison = hostile()
    scores, (prompt, *_) = scores_of(comparison), Tree(comparison_html(comparison)).drawn()
    title = prompt[1].attributes["title"].splitlines()
    for line, values in {
        1: (scores.base.logprobs[1], scores.quantized.logprobs[1]),
        3: (scores.base.entropy[1], scores.quantized.entropy[1]),
        4: (scores.kl[1], scores.js[1], scores.total_variation[1]),
    }.items():
        assert re.findall(r"-?\d+\.\d+", title[line]) == [f"{value:.4f}" for value in values]
    assert title[5] == f"base: {quoted(HOSTILE[1])} 36.8 %"
    assert "KL -," in prompt[0].attributes["title"]


def test_choices_have_paired_bars() -> None:
    made = reply()
    tree = Tree(comparison_html(Comparison.model_validate(made)))
    widths = [bar.inside[1].attributes["style"] for bar in tree.of_class("bar")]
    shares = [each[side]["confidence"] for each in made["continuations"] for side in ("base", "quantized")]
    assert widths == [f"width:{100 * share:.1f}%" for share in shares]


@pytest.mark.parametrize("flip", [False, True])
def test_a_flip_is_marked(flip: bool) -> None:
    made = reply()
    made["choice"] |= {"base": 0, "quantized": int(flip), "flip": flip}
    comparison = Comparison.model_validate(made)
    marked = [each.text for each in Tree(comparison_html(comparison)).of_class("flip")]
    sentence = 'Flip: base chooses "[5, 6, 7, 8, 9]", quantized chooses "[1]".'
    assert marked == ([sentence] if flip else [])
    assert (sentence in printed(comparison)) == flip
    assert ('No flip: both choose "[5, 6, 7, 8, 9]".' in printed(comparison)) != flip


def test_the_fork_is_marked_in_both_answers() -> None:
    comparison = hostile()
    tree = Tree(comparison_html(comparison))
    (answers,) = tree.of_class("answers")
    forks = [each for each in answers.inside if each.attributes.get("class") == "fork"]
    assert [each.text for each in forks] == [visible_token(HOSTILE[2])] * 2
    assert "The answers part after 2 equal tokens: base goes on with" in tree.all[0].text
    assert 'quantized with "b"; KL there 0.5000 nats.' in printed(comparison)
    assert printed(comparison).count(f"{FORK}\\u001b") == 2


def test_equal_answers_and_single_ones_have_no_fork() -> None:
    comparison = hostile()
    assert comparison.generation is not None
    comparison.generation.fork = None
    assert "Both answers are the same, 5 tokens." in printed(comparison)
    comparison.generation.quantized = comparison.generation.length_ratio = comparison.generation.seed = None
    assert "answers" not in printed(comparison)
    assert "\nAcceptance 75.0 %.\n" in printed(comparison)


def test_of_very_long_texts_the_end_is_drawn() -> None:
    made = reply([list(range(MOST_TOKENS + 3)), [1]])
    (text, _) = Tree(comparison_html(Comparison.model_validate(made))).of_class("tokens")
    assert text.text.startswith("3 tokens before are left out 345")
    assert len([each for each in text.inside if each.tag == "span"]) == MOST_TOKENS


def test_notebooks_show_each_variant() -> None:
    comparison = Comparison.model_validate(reply(variants=("w8", "w4")))
    tree = Tree(comparison._repr_html_())
    assert [each.text for each in tree.all if each.tag == "summary"] == ["w4: mean KL 0.0200 nats"]
    assert len(tree.of_class("legend")) == 2
    assert len(Tree(comparison.of("w4")._repr_html_()).of_class("legend")) == 1


def printed(comparison: Comparison, **options: Any) -> str:
    """Return what a terminal, or a file, gets."""
    out = io.StringIO()
    print_comparison(Console(file=out, width=160, **options), comparison, KL, tables=False)
    return out.getvalue()


def test_without_colors_each_text_is_a_table() -> None:
    comparison = hostile()
    found = printed(comparison)
    assert "\x1b" not in found
    for heading in ("prompt", "continuation 0", "continuation 1", "base's answer", "quantized's answer"):
        assert re.search(rf"^{heading} *$", found, re.MULTILINE)
    scores = scores_of(comparison)
    row = next(line for line in found.splitlines() if line.startswith("2 "))
    assert row.split()[1] == quoted(HOSTILE[2])
    assert row.split()[2:4] == [f"{each.logprobs[2]:.4f}" for each in (scores.base, scores.quantized)]
    assert f" {scores.kl[2]:.4f} " in row


def test_with_colors_only_rich_writes_escapes() -> None:
    found = printed(hostile(), force_terminal=True, color_system="truecolor")
    assert "\x1b[31m" not in found
    assert "\\u001b[31m" in found
    assert "prompt" not in found
    assert "\x1b" not in printed(hostile(), force_terminal=True, color_system=None)
