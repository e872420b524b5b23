"""What a comparison says, in sentences."""

from qconf.show.text import number, percent, quoted
from qconf.wire.comparison import Choice, Continuation, PairScores
from qconf.wire.generation import Generation, Generations

ENDS = {"stop": "ended", "length": "cut at the limit"}


def marks(index: int, choice: Choice | None) -> list[str]:
    """Return what a continuation is: the true one, a model's choice."""
    if choice is None:
        return []
    found = {"true": choice.label, "base's choice": choice.base, "quantized's choice": choice.quantized}
    return [mark for mark, of in found.items() if of == index]


def choice_sentence(choice: Choice, continuations: list[Continuation]) -> str:
    """Return whether the models agree on the continuation."""
    base, quantized = (quoted(continuations[index].text) for index in (choice.base, choice.quantized))
    if choice.flip:
        return f"Flip: base chooses {base}, quantized chooses {quantized}."
    return f"No flip: both choose {base}."


def fork_sentence(answers: Generations) -> str | None:
    """Return where the answers part; None without both of them."""
    if answers.base is None or answers.quantized is None:
        return None
    if answers.fork is None:
        return f"Both answers are the same, {len(answers.base.token_ids)} tokens."
    fork = answers.fork
    base, quantized = quoted(fork.tokens.base), quoted(fork.tokens.quantized)
    return (
        f"The answers part after {fork.index} equal tokens: base goes on with {base}, quantized with {quantized}; "
        f"KL there {number(fork.kl)} nats."
    )


def answer_heading(side: str, answer: Generation) -> str:
    """Return whose answer it is, how it ended and how far the models are apart on it."""
    kl = number(answer.summary.mean_kl)
    return f"{side}: {len(answer.token_ids)} tokens, {ENDS[answer.finish_reason]}, mean KL {kl}"


def answers_sentence(answers: Generations) -> str:
    """Return how the answers compare as a whole."""
    parts = [f"acceptance {percent(answers.acceptance)}"]
    if answers.length_ratio is not None:
        parts.append(f"length ratio (quantized / base) {answers.length_ratio:.2f}")
    if answers.seed is not None:
        parts.append(f"seed {answers.seed}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def summary_sentence(scores: PairScores) -> str:
    """Return the means over the scored tokens: the continuations', or else the prompt's."""
    summary = scores.summary
    if summary.tokens == 0:
        return "No token was scored."
    perplexity, confidence = summary.perplexity, summary.mean_confidence
    return (
        f"{summary.tokens} scored tokens of the {'continuations' if scores.continuations else 'prompt'}: "
        f"mean KL {number(summary.mean_kl)} nats, largest {number(summary.max_kl)}; "
        f"same likeliest token at {percent(summary.agreement)}; "
        f"perplexity {number(perplexity.base)} → {number(perplexity.quantized)}; "
        f"confidence {percent(confidence.base)} → {percent(confidence.quantized)}."
    )
