"""A comparison as HTML without scripts, for notebooks and files. Every text in it is escaped."""

import html
import math

from qconf.show.quantities import KL, Quantity
from qconf.show.scale import text_on
from qconf.show.sentences import (
    answer_heading,
    answers_sentence,
    choice_sentence,
    fork_sentence,
    marks,
    summary_sentence,
)
from qconf.show.style import STYLE
from qconf.show.text import described, likeliest, number, percent, quoted, visible, visible_token
from qconf.wire.comparison import Comparison, Continuation, PairScores
from qconf.wire.fields import Both
from qconf.wire.generation import Generation, Generations
from qconf.wire.scores import TokenComparison, TopTokens

MOST_TOKENS = 4096
"""Of one text that are drawn: more make a notebook slow."""
MOST_ALTERNATIVES = 5
"""Of each model at a fork."""


def comparison_page(scores: PairScores, quantity: Quantity = KL) -> str:
    """Return a whole document."""
    head = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison</title>'
    theme = '<meta name="color-scheme" content="light dark"></head>'
    return f"{head}{theme}<body>{comparison_html(scores, quantity)}</body></html>\n"


def comparison_html(scores: PairScores, quantity: Quantity = KL) -> str:
    """Return a fragment with the scores under the base and a variant, and those under each other variant folded."""
    others = scores.variants if isinstance(scores, Comparison) else {}
    folded = (
        f"<details><summary>{_text(name)}: mean KL {number(each.summary.mean_kl)} nats</summary>"
        f"{_pair(each, quantity)}</details>"
        for name, each in others.items()
    )
    return f'<div class="qconf"><style>{STYLE}</style>{_pair(scores, quantity)}{"".join(folded)}</div>'


def _pair(scores: PairScores, quantity: Quantity) -> str:
    parts = [_models(scores), _legend(quantity)]
    if scores.prompt is not None:
        parts.append(_section("Prompt", _tokens(scores.prompt, quantity)))
    if scores.continuations:
        parts.append(_section("Continuations", _continuations(scores, scores.continuations, quantity)))
    if scores.generation is not None:
        parts.append(_section("Answers", _answers(scores.generation, quantity)))
    return "".join([*parts, _sentence(summary_sentence(scores))])


def _models(scores: PairScores) -> str:
    rows = (
        f'<tr><th class="{side}">{_text(model.id)}</th><td>{_text(described(model))}</td></tr>'
        for side, model in (("base", scores.models.base), ("quantized", scores.models.quantized))
    )
    return f"<table>{''.join(rows)}</table>"


def _legend(quantity: Quantity) -> str:
    swatches = (f'<span style="{_background(quantity, value)}">{value:.2g}</span>' for value in quantity.legend())
    return f'<p class="legend">{_text(quantity.heading)} {"".join(swatches)}</p>'


def _tokens(scores: TokenComparison, quantity: Quantity, fork: int | None = None) -> str:
    """Draw the tokens, the last ones where there are too many; the token at ``fork`` is outlined."""
    values = quantity.column(scores)
    first = max(len(values) - MOST_TOKENS, 0)
    left_out = f"<small>{first} tokens before are left out</small> " if first else ""
    drawn = (_token(scores, index, quantity, values[index], index == fork) for index in range(first, len(values)))
    return f'<p class="tokens">{left_out}{"".join(drawn)}</p>'


def _token(scores: TokenComparison, index: int, quantity: Quantity, value: float | None, fork: bool) -> str:
    style = "" if value is None else f' style="{_background(quantity, value)}"'
    mark = ' class="fork"' if fork else ""
    return (
        f'<span{mark}{style} title="{_text(_title(scores, index))}">{_text(visible_token(scores.tokens[index]))}</span>'
    )


def _title(scores: TokenComparison, index: int) -> str:
    """Return the numbers of both models, a line each."""
    base, quantized = scores.base, scores.quantized
    lines = [
        f"{quoted(scores.tokens[index])}, token {scores.token_ids[index]}, position {index}",
        f"log-probability {number(base.logprobs[index])} → {number(quantized.logprobs[index])}",
        f"confidence {percent(base.confidence[index])} → {percent(quantized.confidence[index])}",
        f"entropy {number(base.entropy[index])} → {number(quantized.entropy[index])}",
        f"KL {number(scores.kl[index])}, JS {number(scores.js[index])}, "
        f"total variation {number(scores.total_variation[index])}",
    ]
    if base.top and quantized.top:
        lines += [f"base: {likeliest(base.top[index])}", f"quantized: {likeliest(quantized.top[index])}"]
    return "\n".join(lines)


def _continuations(scores: PairScores, continuations: list[Continuation], quantity: Quantity) -> str:
    rows = []
    for each in continuations:
        text = f'<p class="tokens">{_text(visible(each.text))}</p>'
        drawn = text if each.scores is None else _tokens(each.scores, quantity)
        tags = f" <small>{', '.join(marks(each.index, scores.choice))}</small>"
        bars = _bars(each.base.confidence, each.quantized.confidence)
        logprobs = f"{number(each.base.logprob)}<br>{number(each.quantized.logprob)}"
        rows.append(f'<tr><td>{drawn}{tags}</td><td>{bars}</td><td class="number">{logprobs}</td></tr>')
    head = "<tr><th></th><th>confidence</th><th>log-probability</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    if scores.choice is None:
        return table
    return table + _sentence(choice_sentence(scores.choice, continuations), "flip" if scores.choice.flip else "")


def _answers(answers: Generations, quantity: Quantity) -> str:
    fork = answers.fork
    index = None if fork is None else fork.index
    columns = (
        f"<div>{_answer(side, answer, quantity, index)}</div>"
        for side, answer in (("base", answers.base), ("quantized", answers.quantized))
        if answer is not None
    )
    parted = fork_sentence(answers)
    return "".join(
        [
            f'<div class="answers">{"".join(columns)}</div>',
            "" if parted is None else _sentence(parted, "flip" if fork else ""),
            "" if fork is None else _alternatives(fork.top),
            _sentence(answers_sentence(answers)),
        ]
    )


def _answer(side: str, answer: Generation, quantity: Quantity, fork: int | None) -> str:
    text = f'<p class="tokens">{_text(visible(answer.text))}</p>'
    drawn = text if answer.scores is None else _tokens(answer.scores, quantity, fork)
    return f'<b class="{side}">{_text(answer_heading(side, answer))}</b>{drawn}'


def _alternatives(top: Both[TopTokens]) -> str:
    """Draw the likeliest tokens of either model at the fork, with the probabilities that are known."""
    texts = {
        token_id: token
        for each in (top.base, top.quantized)
        for token_id, token in list(zip(each.token_ids, each.tokens, strict=True))[:MOST_ALTERNATIVES]
    }
    base, quantized = _probabilities(top.base), _probabilities(top.quantized)
    rows = (
        f"<tr><td>{_text(quoted(token))}</td><td>{_bars(base.get(token_id), quantized.get(token_id))}</td></tr>"
        for token_id, token in texts.items()
    )
    return f"<table><tbody>{''.join(rows)}</tbody></table>"


def _probabilities(top: TopTokens) -> dict[int, float]:
    return {token_id: math.exp(logprob) for token_id, logprob in zip(top.token_ids, top.logprobs, strict=True)}


def _bars(base: float | None, quantized: float | None) -> str:
    """Draw a share under each model; one that is not known has no bar."""
    return "".join(
        f'<span class="bar {side}"><i><b style="width:{100 * (share or 0):.1f}%"></b></i>{percent(share)}</span>'
        for side, share in (("base", base), ("quantized", quantized))
    )


def _section(heading: str, content: str) -> str:
    return f"<h4>{heading}</h4>{content}"


def _sentence(text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<p{mark}>{_text(text)}</p>"


def _background(quantity: Quantity, value: float) -> str:
    background = quantity.color(value)
    return f"background:{background.hex};color:{text_on(background).hex}"


def _text(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")
