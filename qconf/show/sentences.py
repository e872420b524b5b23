"""What a comparison says, in sentences."""

from qconf.show.text import number, percent, quoted
from qconf.wire.comparison import Choice, Continuation
from qconf.wire.generation import Generations
from qconf.wire.scores import Summary


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


def answers_sentence(answers: Generations) -> str:
    """Return how the answers compare as a whole."""
    ratio = answers.length_ratio
    length = "" if ratio is None else f"Length ratio (quantized / base) {ratio:.2f}; "
    seed = "" if answers.seed is None else f"; seed {answers.seed}"
    return f"{length}acceptance {percent(answers.acceptance)}{seed}."


def summary_sentence(summary: Summary) -> str:
    """Return the means over the scored tokens."""
    if summary.tokens == 0:
        return "No token was scored."
    perplexity = summary.perplexity
    return (
        f"{summary.tokens} scored tokens: mean KL {number(summary.mean_kl)} nats, "
        f"largest {number(summary.max_kl)}; same likeliest token at {percent(summary.agreement)}; "
        f"perplexity {number(perplexity.base)} → {number(perplexity.quantized)}; "
        f"confidence {percent(summary.mean_confidence.base)} → {percent(summary.mean_confidence.quantized)}."
    )
