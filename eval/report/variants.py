"""Quantized variants of one base side by side: a row for each, what they lose for their size, and which to ship."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eval.analysis.run import RunAnalysis
from eval.analysis.variants import Difference, differences, subject_of, undominated
from eval.gate import Outcome, Verdict, judge, overall
from eval.report.format import change, number, with_interval
from eval.report.generated import metric_name
from eval.report.grid import Grid
from eval.report.sentences import items
from eval.report.size import in_bytes, sizes
from qconf.rules import Rule
from qconf.run.folder import Run
from qconf.statistics.intervals import Interval
from qconf.wire import ModelInfo, ModelSize

# Statistic, heading, and whether it is a share, shown in percent.
DIFFERENCES = (("kl", "KL of choices, nats", False), ("accuracy", "accuracy", True), ("flips", "flips", True))


@dataclass(frozen=True)
class Variant:
    """A quantized model; ``size`` is None where the server did not know it, ``verdicts`` is None without a gate."""

    name: str
    run: Run
    analysis: RunAnalysis
    size: ModelSize | None
    verdicts: list[Verdict] | None

    @property
    def outcome(self) -> Outcome | None:
        """The gate's outcome; None without a gate."""
        return None if self.verdicts is None else overall(self.verdicts)


@dataclass(frozen=True)
class Loss:
    """What each variant loses, by one statistic, and whether it is Pareto-optimal in that and in size."""

    name: str
    heading: str
    share: bool
    sizes: list[ModelSize]
    values: list[Interval]
    undominated: list[bool]


@dataclass(frozen=True)
class Variants:
    """Several variants; ``losses`` is empty where the size of any is not known, ``differences`` without labels."""

    each: list[Variant]
    losses: list[Loss]
    differences: list[Difference]

    @property
    def outcome(self) -> Outcome | None:
        """Pass if any variant passes, otherwise inconclusive if any is, otherwise fail; None without a gate."""
        outcomes = {each.outcome for each in self.each}
        order: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")
        return next((outcome for outcome in order if outcome in outcomes), None)


def compare_variants(runs: Sequence[tuple[Run, RunAnalysis]], rules: Sequence[Rule] | None) -> Variants:
    """Set runs that ``check_variants`` accepts side by side; judge each by a gate's rules, if there are any."""
    each = [
        Variant(
            name=name,
            run=run,
            analysis=analysis,
            size=subject_of(run).models.quantized.size,
            verdicts=None if rules is None else judge(rules, analysis),
        )
        for name, (run, analysis) in zip(run_names([run for run, _ in runs]), runs, strict=True)
    ]
    return Variants(each, _losses(each), differences([run for run, _ in runs]))


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return a single run's folder; of several, each quantized model's name, with the folder where two are equal."""
    folders = Counter(run.path.name for run in runs)
    within = [run.path.name if run.path.name and folders[run.path.name] == 1 else str(run.path) for run in runs]
    if len(runs) == 1:
        return within
    models = [_model_name(subject_of(run).models.quantized) for run in runs]
    seen = Counter(models)
    return [model if seen[model] == 1 else f"{model} ({folder})" for model, folder in zip(models, within, strict=True)]


def _model_name(model: ModelInfo) -> str:
    """Return the name that the server gave it, or where it is that of every pair, where the model is."""
    return model.root if model.id == "quantized" else model.id


def variants_tables(variants: Variants) -> list[Grid]:
    """Return the tables of the variants, and of each two of them."""
    return [_variants_table(variants), *([_differences_table(variants)] if variants.differences else [])]


def ship_sentence(variants: Variants) -> str:
    """Write which variant to ship by the gate: the smallest that passes."""
    if variants.outcome is None:
        return "Which of these to ship is for a gate to decide: with --gate FILE, the smallest that passes is named."
    if variants.outcome != "pass":
        undecided = [each.name for each in variants.each if each.outcome == "inconclusive"]
        return f"No variant passes the gate{f'; inconclusive: {_list(undecided)}' if undecided else ''}."
    passing = [each for each in variants.each if each.outcome == "pass"]
    known = {each.name: each.size for each in passing if each.size is not None}
    if len(known) < len(passing):
        return f"The gate is passed by {_list([each.name for each in passing])}; which is smallest is not known."
    size = min(known.values(), key=lambda each: each.bytes)
    smallest = [name for name, each in known.items() if each.bytes == size.bytes]
    found = "variant that passes the gate is" if len(smallest) == 1 else "variants that pass the gate are"
    return (
        f"The smallest {found} {_list(smallest)}: {in_bytes(size.bytes)}, {size.bits_per_weight:.2f} bits per weight."
    )


def reasons(variants: Variants) -> list[str]:
    """Write which rules the variants do not pass, and which variants are Pareto-optimal in size and loss."""
    found = [
        f"{each.name}: {verdict.outcome}, {verdict.message}."
        for each in variants.each
        for verdict in each.verdicts or []
        if verdict.outcome != "pass"
    ]
    unknown = [each.name for each in variants.each if each.size is None]
    if unknown:
        return [*found, f"The size of {_list(unknown)} is not known, so loss and size are not compared."]
    best = "; ".join(f"by {loss.heading}, {_list(_best(variants, loss))}" for loss in variants.losses)
    return [*found, f"Undominated (no other variant is both no larger and no worse): {best}."]


def variants_as_json(variants: Variants) -> dict[str, object]:
    """Return what the analyses of the runs do not have: sizes, verdicts, and the variants compared with each other."""
    return {
        "outcome": variants.outcome,
        "variants": [
            {
                "name": each.name,
                "path": str(each.run.path),
                "bytes": each.size and each.size.bytes,
                "bits_per_weight": each.size and each.size.bits_per_weight,
                "outcome": each.outcome,
                "rules": each.verdicts,
            }
            for each in variants.each
        ],
        "undominated": {loss.name: _best(variants, loss) for loss in variants.losses},
        "differences": [
            {"one": variants.each[pair.one].name, "other": variants.each[pair.other].name, **pair.statistics}
            for pair in variants.differences
        ],
    }


def _losses(variants: Sequence[Variant]) -> list[Loss]:
    """Return the losses that are compared with sizes, named as in a gate's verdicts."""
    known = [each.size for each in variants if each.size is not None]
    if len(known) < len(variants):
        return []

    def loss(name: str, heading: str, values: list[Interval], share: bool = False, sign: int = 1) -> Loss:
        best = undominated([each.bytes for each in known], [sign * each.point for each in values])
        return Loss(name, heading, share, known, values, best)

    found = [
        loss(f"kl of {name}", f"KL per token of {name}", [each.analysis.corpora[name].means["kl"] for each in variants])
        for name in variants[0].analysis.corpora
    ]
    found += [
        loss(
            f"kl of the answers of {name}",
            f"KL of the answers of {name}",
            [each.analysis.generated[name].base_kl for each in variants],
        )
        for name in variants[0].analysis.generated
    ]
    if of_items := [each.analysis.overall for each in variants if each.analysis.overall]:
        changes = [each.compared["accuracy"].delta for each in of_items]
        found += [
            loss("kl of overall", "KL of choices", [each.pair["kl"] for each in of_items]),
            loss("delta accuracy of overall", "change of accuracy", changes, share=True, sign=-1),
        ]
    return found


def _variants_table(variants: Variants) -> Grid:
    rows = [_row(each) for each in variants.each]
    first = variants.each[0]
    of = f", on {items(first.analysis.overall)}" if first.analysis.overall else ""
    return Grid(
        f"Variants of {_base(first)}{of}; shares in percent, KL(base ‖ quantized) in nats; base → quantized, Δ: "
        "quantized minus base. Every interval compares a variant with the base, not with another variant.",
        list(rows[0]),
        [list(row.values()) for row in rows],
    )


def _differences_table(variants: Variants) -> Grid:
    return Grid(
        "Two variants on the same items: the first less the second, shares in percent. * excludes 0; the intervals are "
        "of each pair alone, not adjusted for their number.",
        ["", *(heading for _, heading, _ in DIFFERENCES)],
        [
            [
                f"{variants.each[pair.one].name} less {variants.each[pair.other].name}",
                *(" ".join(change(pair.statistics[name], share)) for name, _, share in DIFFERENCES),
            ]
            for pair in variants.differences
        ],
    )


def _row(each: Variant) -> dict[str, str]:
    """Return a variant's cells by heading."""
    size, of_items, corpora = each.size, each.analysis.overall, each.analysis.corpora
    row = {"variant": each.name} | ({"gate": each.outcome} if each.outcome else {})
    row["weights"] = in_bytes(size.bytes) if size else "-"
    row["bits per weight"] = f"{size.bits_per_weight:.2f}" if size else "-"
    row |= {f"KL per token, {name}": with_interval(corpus.means["kl"], False) for name, corpus in corpora.items()}
    if of_items:
        accuracy, ece = of_items.compared["accuracy"], of_items.compared["ece"]
        shares = [number(each.point, True) for each in (accuracy.base, accuracy.quantized)]
        row |= {
            "KL of choices": with_interval(of_items.pair["kl"], False),
            "accuracy, Δ": f"{' → '.join(shares)}, {' '.join(change(accuracy.delta, True))}",
            "flips": with_interval(of_items.pair["flips"], True),
            "ECE": with_interval(ece.quantized, True),
            "ECE Δ": " ".join(change(ece.delta, True)),
            "confidence Δ": " ".join(change(of_items.compared["confidence"].delta, True)),
        }
    for name, generated in each.analysis.generated.items():
        accuracies = [
            f"{metric_name(metric)} {' '.join(change(accuracy.compared.delta, True))}"
            for metric, accuracy in generated.accuracy.items()
        ]
        row |= {
            f"KL of the answers of {name}": with_interval(generated.base_kl, False),
            f"accuracy of {name}, Δ": "; ".join(accuracies) or "-",
            f"same text, {name}": with_interval(generated.equal, True),
        }
    return row | {
        f"perplexity ratio, {name}": with_interval(corpus.perplexity_ratio, False) for name, corpus in corpora.items()
    }


def _base(variant: Variant) -> str:
    """Write the name and the size of the variant's base."""
    name, both = subject_of(variant.run).models.base.root, sizes(variant.run.manifest)
    return f"{name} ({in_bytes(both.base.bytes)}, {both.base.bits_per_weight:.2f} bits per weight)" if both else name


def _best(variants: Variants, loss: Loss) -> list[str]:
    return [each.name for each, best in zip(variants.each, loss.undominated, strict=True) if best]


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
