"""Live metrics of several quantized variants: each has the numbers of a server with this variant alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qconf.run.folder import read_run
from qconf.wire import Both, ModelInfo
from server.engine.twin.rows import STATISTICS, Rows
from server.monitoring.monitor import Monitor
from server.monitoring.observation import Observation
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.scored import MODELS
from tests.synthetic_run import items, tokens, window, write
from tests.test_monitor import Values, faults, models, monitor, observations, rows, value, values
from tests.test_results import manifest

NOISE = {"w4": 1.0, "w8": 0.2}
VARIANTS = tuple(NOISE)
ACCEPT_OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def comparisons(folder: Path) -> list[list[Observation]]:
    """Return comparisons of the same items under w4 and under w8, which is nearer to the base model."""
    runs = [read_run(write(folder / name, items("piqa", 400, 1, noise=noise))) for name, noise in NOISE.items()]
    w4, w8 = (observations(run, np.random.default_rng(0)) for run in runs)
    return [[far, replace(near, tokens=nearer(near.tokens))] for far, near in zip(w4, w8, strict=True)]


def texts() -> list[list[Observation]]:
    """Return texts without choices, as mirrored calls are, under w4 and under w8."""
    rng = np.random.default_rng(2)
    found = [rows(rng, 20) for _ in range(60)]
    return [[Observation(each, None), Observation(nearer(each), None)] for each in found]


def nearer(rows: Rows) -> Rows:
    """Return rows of the same base model and a variant whose distributions are ten times as near to it."""
    values = rows.values.copy()
    for column, name in enumerate(STATISTICS):
        if name in ("kl", "reverse_kl", "js"):
            values[:, column] /= 10
        elif name.startswith("quantized_"):
            values[:, column] = rows[name.replace("quantized", "base")]
    return Rows(values)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[list[Observation]]:
    return comparisons(tmp_path_factory.mktemp("runs"))


def recorded_with_w8(folder: Path) -> Path:
    """Return a run that was recorded with the base and w8."""
    base, _, w8 = models(variants=VARIANTS).data
    return recorded_with(base, w8, folder)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_with_w8(tmp_path_factory.mktemp("reference") / "run")


def recorded_with(base: ModelInfo, quantized: ModelInfo, folder: Path) -> Path:
    about = manifest()
    assert about.subject is not None
    pair = Both[ModelInfo](base=base, quantized=quantized)
    about = about.model_copy(update={"subject": about.subject.model_copy(update={"models": pair})})
    recorded = [*items("piqa", 500, 5), *(window("text", number) for number in range(60))]
    return write(folder, recorded, tokens("text", 60, 20, 7), about=about)


def watching(seen: list[list[Observation]], reference: Path | None = None, folder: Path | None = None) -> Monitor:
    watched = monitor(reference, folder, variants=VARIANTS)
    for comparison in seen:
        watched.add(comparison)
    return watched


def watching_only(variant: str, seen: list[list[Observation]], reference: Path | None = None) -> Monitor:
    watched = monitor(reference, variants=(variant,))
    for comparison in seen:
        watched.add([comparison[VARIANTS.index(variant)]])
    return watched


def of_the_pair(found: Values) -> Values:
    """Return the samples of qconf's metrics that are not of the service, without the times of their creation."""
    registry = CollectorRegistry()
    ServiceMetrics(registry)
    service = tuple(family.name for family in registry.collect())
    return {
        (name, labels): number
        for (name, labels), number in found.items()
        if name.startswith("qconf_") and not name.startswith(service) and not name.endswith("_created")
    }


def of_variant(variant: str, found: Values) -> Values:
    """Return the samples of one variant, without the label."""
    label = ("variant", variant)
    return {(name, labels - {label}): number for (name, labels), number in found.items() if label in labels}


def test_each_variant_has_the_numbers_of_a_server_with_it_alone(seen: list[list[Observation]], reference: Path) -> None:
    both = of_the_pair(values(watching(seen, reference)))
    assert {dict(labels)["variant"] for _, labels in both} == set(VARIANTS)
    w4 = of_the_pair(values(watching_only("w4", seen)))
    w8 = of_the_pair(values(watching_only("w8", seen, reference)))
    assert of_variant("w4", both) == w4
    assert of_variant("w8", both) == w8
    assert len(w4) > 200
    for labels in ({"kind": "right_to_wrong"}, {"kind": "wrong_to_right"}):
        flips = [value(found, "qconf_flips_total", **labels) for found in (w4, w8)]
        assert flips[0] > 2 * flips[1] > 0


def test_what_is_of_the_base_model_alone_is_the_same_for_all_variants(seen: list[list[Observation]]) -> None:
    both = of_the_pair(values(watching(seen)))
    for name in ("qconf_choice_confidence_sum", "qconf_brier_score_total", "qconf_window_ece"):
        base, quantized = ([value(both, name, variant=each, model=role) for each in VARIANTS] for role in MODELS)
        assert base[0] == base[1]
        assert quantized[0] != quantized[1]


def test_metrics_of_the_service_have_no_variant(seen: list[list[Observation]]) -> None:
    found = values(watching(seen))
    assert value(found, "qconf_engine_up") == 0
    described = [dict(labels)["model"] for name, labels in found if name == "qconf_model_info"]
    assert sorted(described) == ["base", "w4", "w8"]


def test_the_reference_is_compared_with_the_variant_it_was_recorded_with(
    seen: list[list[Observation]], reference: Path
) -> None:
    found = values(watching(seen, reference))
    assert value(found, "qconf_reference_info", run=str(reference), same_pair="true", variant="w8") == 1
    drift = {dict(labels)["variant"] for name, labels in found if name.startswith("qconf_drift_")}
    assert drift == {"w8"}


def test_the_reference_of_another_pair_is_compared_with_the_first_variant(
    seen: list[list[Observation]], tmp_path: Path
) -> None:
    base, quantized = models("other").data
    reference = recorded_with(base, quantized, tmp_path / "run")
    found = values(watching(seen, reference))
    assert value(found, "qconf_reference_info", run=str(reference), same_pair="false", variant="w4") == 1
    drift = {dict(labels)["variant"] for name, labels in found if name.startswith("qconf_drift_")}
    assert drift == {"w4"}


def test_the_window_of_each_variant_survives_a_restart(
    seen: list[list[Observation]], reference: Path, tmp_path: Path
) -> None:
    def gauges(watched: Monitor) -> Values:
        return {key: number for key, number in values(watched).items() if "_window" in key[0] or "_drift" in key[0]}

    first = watching(seen, reference, tmp_path)
    first.save()
    before = gauges(first)
    assert [value(before, "qconf_window_comparisons", variant=each) for each in VARIANTS] == [400, 400]
    assert len(list(tmp_path.iterdir())) == 2
    # A window is that of the pair, wherever the variant stands and whatever it stands with.
    assert gauges(monitor(reference, tmp_path, variants=VARIANTS)) == before
    assert gauges(monitor(reference, tmp_path, variants=("w8", "w4"))) == before
    assert gauges(monitor(reference, tmp_path, variants=("w8",))) == of_variant("w8", before)
    exchanged = values(monitor(reference, tmp_path, variants=("w4", "w3")))
    assert value(exchanged, "qconf_window_comparisons", variant="w3") == 0


@pytest.fixture
def exposed(seen: list[list[Observation]], reference: Path) -> Monitor:
    return watching(seen, reference)


def test_both_formats_are_valid_and_have_the_same_samples(exposed: Monitor) -> None:
    text = parse_text(exposed.exposition("")[0].decode())
    openmetrics = parse_openmetrics(exposed.exposition(ACCEPT_OPENMETRICS)[0].decode())  # type: ignore[no-untyped-call]
    ours, theirs = (
        {
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in families
            for sample in family.samples
            if "variant" in sample.labels and not sample.name.endswith("_created")
        }
        for families in (text, openmetrics)
    )
    assert ours == theirs
    assert len(ours) > 400


def test_a_metric_is_described_once(exposed: Monitor) -> None:
    types = [line for line in exposed.exposition("")[0].decode().splitlines() if line.startswith("# TYPE qconf_")]
    assert len(types) == len(set(types)) > 40


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_no_fault_with_names_and_help(exposed: Monitor) -> None:
    assert faults(exposed) == (0, "")
