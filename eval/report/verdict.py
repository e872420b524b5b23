"""The verdict on a run and its reasons, in sentences made from its numbers."""

from collections.abc import Mapping

from eval.analysis.floor import Floor
from eval.analysis.generated import GeneratedAnalysis
from eval.analysis.items import BUCKETS, Analysis
from eval.analysis.run import RunAnalysis
from eval.analysis.tokens import TokenAnalysis
from eval.report.format import bracket, excludes, number, p_equals, signed
from eval.report.generated import metric_name
from eval.report.sentences import log_odds_sentence, mcnemar_name, routing_sentence, temperature_sentence
from qconf.run.folder import Manifest
from qconf.statistics.intervals import Interval

TESTS = {"mcnemar": "McNemar's test of accuracy", "paired_t": "t-test of confidence in the true choice"}


def headline(run: RunAnalysis) -> str:
    """Write the verdict in a sentence."""
    if not run.overall:
        found = [
            f"accuracy of {name} ({metric_name(metric)}) {_outcome(each.compared.delta)}"
            for name, generated in run.generated.items()
            for metric, each in generated.accuracy.items()
        ]
        found += [f"perplexity of {name} {_outcome(each.perplexity_ratio, 1.0)}" for name, each in run.corpora.items()]
    else:
        compared = run.overall.compared
        found = [
            f"accuracy {_outcome(compared['accuracy'].delta)}",
            f"confidence in the true choice {_outcome(compared['true_confidence'].delta)}",
            f"{number(run.overall.pair['flips'].point, True)} % of answers changed",
        ]
    text = "; ".join(found)
    return f"{text[0].upper()}{text[1:]}."


def stopped_sentence(manifest: Manifest) -> str | None:
    """Warn that the statistics take no account of an early stop; None for a replay that did not stop early."""
    drawn = manifest.drawn
    if drawn is None or drawn.items == drawn.of:
        return None
    return (
        f"The replay stopped when its rules were settled, after {drawn.items} of {drawn.of} items: intervals and tests "
        "take that number for chosen beforehand; the replay's own verdicts are in results.json."
    )


def sentences(run: RunAnalysis) -> list[str]:
    """Write the reasons of the verdict, from the numbers."""
    found = _item_sentences(run.overall) if run.overall else []
    if len(run.tasks) > 1:
        found.append(_task_sentence(run.adjusted))
    found += [_generated_sentence(name, each) for name, each in run.generated.items()]
    found += [_corpus_sentence(name, each) for name, each in run.corpora.items()]
    if run.floor:
        found += _floor_sentences(run.floor, run.overall)
    return found


def _item_sentences(overall: Analysis) -> list[str]:
    compared = overall.compared
    return [
        *(
            _moved(subject, compared[name].delta, compared[name].base, compared[name].quantized)
            for name, subject in (
                ("accuracy", "Accuracy"),
                ("true_confidence", "Confidence in the true choice"),
                ("confidence", "Confidence in the choice that a model makes"),
                ("overconfidence", "Over-confidence (confidence less accuracy)"),
            )
        ),
        _flip_sentence(overall),
        log_odds_sentence(overall),
        temperature_sentence(overall),
        routing_sentence(overall),
    ]


def _outcome(each: Interval, nothing: float = 0.0) -> str:
    """Write whether a quantity changed; ``nothing`` is its value without a change."""
    if not excludes(each, nothing):
        return "did not change significantly"
    return "rose significantly" if each.low > nothing else "fell significantly"


def _moved(subject: str, delta: Interval, base: Interval, quantized: Interval) -> str:
    from_to = f"from {number(base.point, True)} % to {number(quantized.point, True)} %"
    ends = bracket(delta, True, signed)
    if delta.point == 0:
        return f"{subject} did not change: {number(base.point, True)} % under both models {ends}."
    if not excludes(delta):
        return f"{subject} changed by {signed(delta.point, True)} points {ends}, {from_to}: not significant."
    verb = "rose" if delta.point > 0 else "fell"
    return f"{subject} {verb} by {number(abs(delta.point), True)} points {ends}, {from_to}: significant."


def _flip_sentence(overall: Analysis) -> str:
    pair, lowest, noise = overall.pair, overall.buckets[0], overall.null.buckets[0]["flips"]
    least = "the fifth of items" if len(overall.buckets) == BUCKETS else f"the {lowest.items} items"
    return (
        f"{number(pair['flips'].point, True)} % of answers changed {bracket(pair['flips'], True)}, "
        f"{number(lowest.flips, True)} % among {least} where the base model is least sure, where "
        f"noise of the same size on all items would change {number(noise.expected, True)} % "
        f"[{number(noise.low, True)}, {number(noise.high, True)}]; of all answers, "
        f"{number(pair['right_to_wrong'].point, True)} % from right to wrong, "
        f"{number(pair['wrong_to_right'].point, True)} % from wrong to right."
    )


def _task_sentence(adjusted: Mapping[str, Mapping[str, float]]) -> str:
    smallest = {name: min(values.items(), key=lambda each: each[1]) for name, values in adjusted.items()}
    parts = [f"{TESTS[name]}, p {p_equals(smallest[name][1])} ({smallest[name][0]})" for name in TESTS]
    return f"Strongest changes of a single task, p-values after Holm's adjustment: {'; '.join(parts)}."


def _generated_sentence(name: str, generated: GeneratedAnalysis) -> str:
    """Write how accuracy moved by each metric, and how many answers are still the same."""
    found = []
    for metric, each in generated.accuracy.items():
        compared, subject = each.compared, f"Accuracy of {name} ({metric_name(metric)})"
        moved = _moved(subject, compared.delta, compared.base, compared.quantized)
        found.append(f"{moved} In the {mcnemar_name(generated)}, p {p_equals(each.mcnemar.p_value)}.")
    agree = generated.agree
    filtered = f", {number(agree.point, True)} % {bracket(agree, True)} after the task's filters" if agree else ""
    same = f"{number(generated.equal.point, True)} % {bracket(generated.equal, True)}"
    return " ".join([*found, f"Generated answers of {name} that are the same text: {same}{filtered}."])


def _corpus_sentence(name: str, corpus: TokenAnalysis) -> str:
    ratio = corpus.perplexity_ratio
    found = "significant" if excludes(ratio, 1.0) else "not significant"
    return (
        f"Perplexity of {name} went from {corpus.base_perplexity.point:.3f} to "
        f"{corpus.quantized_perplexity.point:.3f}, a ratio of {number(ratio.point, False)} "
        f"{bracket(ratio, False)}: {found}; at {number(corpus.means['same_top'].point, True)} % of "
        "places both models have the same likeliest token."
    )


def _floor_sentences(floor: Floor, overall: Analysis | None) -> list[str]:
    """Write what differs when the same pair is measured twice, and what base and quantized differ by beyond that."""
    found = []
    if floor.overall and overall:
        base, quantized, excess = floor.overall.base, floor.overall.quantized, floor.overall.excess
        found.append(
            f"Noise floor: in a second run the base model changes {number(base['flips'].point, True)} % of its own "
            f"answers {bracket(base['flips'], True)}, the quantized model {number(quantized['flips'].point, True)} % "
            f"{bracket(quantized['flips'], True)}; the {number(overall.pair['flips'].point, True)} % between base and "
            f"quantized are {_over(excess['flips'], True)}, their mean KL is {_over(excess['kl'], False)}."
        )
    for name, each in floor.corpora.items():
        found.append(
            f"Noise floor of {name}: in a second run the base model has another likeliest token at "
            f"{number(each.base['top_changed'].point, True)} % of places, the quantized model at "
            f"{number(each.quantized['top_changed'].point, True)} %; between base and quantized there are "
            f"{_over(each.excess['top_changed'], True)}."
        )
    if not floor.same_models:
        found.append("Whether the noise floor is of the same models is not checked: imported runs have no digests.")
    return found


def _over(excess: Interval, share: bool) -> str:
    unit = "points" if share else "nats"
    return f"{number(excess.point, share)} {unit} over the floor {bracket(excess, share)}"
