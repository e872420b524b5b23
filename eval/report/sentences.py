"""Findings on a set of items in sentences, which the page and the terminal share."""

from eval.analysis.floor import Floor
from eval.analysis.generated import GeneratedAnalysis
from eval.analysis.items import Analysis
from eval.analysis.null import NullTest
from eval.analysis.run import RunAnalysis
from eval.report.format import number, p_equals
from qconf.statistics.forecasts import BrierParts
from qconf.statistics.routing import threshold_for

LEAST_LIKELY = 0.05
"""P-value below which a trend is called statistically significant."""
MOST = 0.8
"""The part of the lost accuracy that routing is asked to recover."""


def findings(overall: Analysis) -> list[str]:
    """Write the tests of whether the models differ, the trends, and the parts of the Brier score."""
    tests = overall.tests
    by_sign = " (signs flipped by cluster)" if overall.clusters else ""
    return [
        f"Accuracy: {tests.mcnemar.b} items right under the base model only, {tests.mcnemar.c} under the quantized one "
        f"only; {mcnemar_name(overall)}, p {p_equals(tests.mcnemar.p_value)}.",
        f"Confidence in the true choice: paired t-test, p {p_equals(tests.paired_t.p_value)}{by_sign}, d = "
        f"{tests.paired_t.effect:+.2f}; Wilcoxon's test, p {p_equals(tests.wilcoxon.p_value)}, r = "
        f"{tests.wilcoxon.effect:+.2f}.",
        trend_sentence(overall),
        log_odds_sentence(overall),
        f"Brier score: {_brier_sum(overall.base_brier)} (base), {_brier_sum(overall.quantized_brier)} (quantized): "
        "reliability less resolution plus uncertainty.",
    ]


def trend_sentence(overall: Analysis) -> str:
    """Write the trends over the base model's confidence, each with the same under the null."""
    null = overall.null
    return (
        f"Trends over the base model's confidence, of the run and of constant noise ({null.simulations} permutations"
        f"{f' of {null.items} items drawn at random' if null.items < overall.items else ''}): flips "
        f"z = {_with_null(null.flip_trend, 1)}; rank correlation of KL {_with_null(null.kl_trend, 2)}; of the size "
        f"of the shift {_with_null(null.shift_trend, 2)}; of the change of log-odds "
        f"{_with_null(null.log_odds_trend, 2)}."
    )


def log_odds_sentence(overall: Analysis) -> str:
    """Write whether quantization disturbs items more where the base model is unsure, in log-odds, which constant noise
    disturbs evenly."""
    test, least, most = overall.null.log_odds_trend, overall.buckets[0], overall.buckets[-1]
    if not any(each.log_odds_spread for each in overall.buckets):
        return "No change of log-odds varies among items."
    found = (
        f"the standard deviation of the change is {least.log_odds_spread:.2f} where the base model is least sure and "
        f"{most.log_odds_spread:.2f} where it is surest; trend over its confidence, p {p_equals(test.p_value)}"
    )
    if test.p_value >= LEAST_LIKELY:
        return (
            f"In log-odds, unsure items do not change significantly more or less than sure ones ({found}): noise of "
            "one size on all items is enough to explain which answers change."
        )
    if test.observed < test.expected.expected:
        return (
            f"In log-odds, unsure items change significantly more than sure ones ({found}): noise of one size on all "
            "items does not explain that."
        )
    return (
        f"In log-odds, unsure items change significantly less than sure ones ({found}): their answers change because "
        "their choices are close, not because they are disturbed more."
    )


def temperature_sentence(overall: Analysis) -> str:
    """Write the temperatures that calibrate each model, and the one that makes both equally confident."""
    found = overall.temperatures
    matching = (
        "no temperature gives the quantized model the base model's mean confidence"
        if found.matching is None
        else f"at {found.matching:.3f}, the quantized model has the base model's mean confidence"
    )
    return (
        f"The temperature that calibrates is {found.base.fit.temperature:.3f} for the base model and "
        f"{found.quantized.fit.temperature:.3f} for the quantized one, whose ECE it changes from "
        f"{number(found.quantized.ece_before, True)} % to {number(found.quantized.ece_after, True)} % on the half of "
        f"the items that it was not fitted on; {matching}."
    )


def routing_sentence(overall: Analysis) -> str:
    """Write how many requests have to go to the base model to recover most of the accuracy that was lost."""
    found = threshold_for(overall.routing, MOST)
    if found is None:
        return "Sending unsure requests to the base model recovers nothing: no accuracy was lost."
    share, threshold = found
    return (
        f"Sending the {number(share, True)} % of requests with a confidence below "
        f"{number(min(threshold, 1.0), True)} % to the base model recovers {number(MOST, True)} % of the accuracy "
        "lost, and so does every larger share."
    )


def floor_note(floor: Floor) -> str:
    """Explain what a floor is, where it comes from, and what could not be checked."""
    ways = f", {', '.join(floor.ways)}" if floor.ways else ""
    models = "" if floor.same_models else " Imported runs have no digests: that the models are the same is not checked."
    return (
        f"The noise floor is how much the same model differs from itself in a second run ({floor.path}{ways}); over "
        f"the floor is the difference between base and quantized beyond the smaller of the two.{models}"
    )


def brackets(run: RunAnalysis) -> str:
    """Explain what is in brackets."""
    drawn = f"{run.settings['resamples']} resamples, seed {run.settings['seed']}"
    return (
        f"[ ]: 95 % confidence intervals; * excludes 0. ~( ): where 95 % of resamples lie ({drawn}), which is not a "
        "confidence interval: errors of calibration are larger by chance alone."
    )


def items(overall: Analysis) -> str:
    """Write how many items there are, and in how many clusters."""
    return f"{overall.items} items" + (f" in {overall.clusters} clusters" if overall.clusters else "")


def mcnemar_name(overall: Analysis | GeneratedAnalysis) -> str:
    """Return the name of the test of accuracy that was made."""
    return "sign-flip test by cluster" if overall.clusters else "exact McNemar test"


def _with_null(test: NullTest, digits: int) -> str:
    observed, expected, low, high = (
        f"{each:+.{digits}f}" for each in (test.observed, test.expected.expected, test.expected.low, test.expected.high)
    )
    return f"{observed} (noise: {expected} [{low}, {high}], p {p_equals(test.p_value)})"


def _brier_sum(parts: BrierParts) -> str:
    return f"{parts.reliability:.4f} - {parts.resolution:.4f} + {parts.uncertainty:.4f}"
