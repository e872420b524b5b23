"""Live metrics without a server: the same numbers as eval's, kept over restarts, in formats that other tools read."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from qconf.run.choices import Choices, flip_kinds, read_choices
from qconf.run.folder import Run, read_run
from qconf.run.reference import read_reference, run_samples
from qconf.statistics.calibration import ece
from qconf.statistics.forecasts import brier
from qconf.wire import ModelInfo, ModelList, ServerInfo
from server.engine.twin.rows import STATISTICS, WIDTH, Rows
from server.errors import StartError
from server.monitoring.histogram import ArrayHistogram
from server.monitoring.monitor import Monitor, load_reference, make_folder
from server.monitoring.observation import UNLABELLED, Item, Observation, Observations
from server.monitoring.sliding import PARTS, Damaged, SlidingSums
from tests.synthetic_run import items, tokens, window, write

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def models(digest: str = "d", variants: Sequence[str] = ("quantized",)) -> ModelList:
    """Describe a base and variants; each has a digest of its own, which ``digest`` is a part of."""
    infos = [
        ModelInfo(
            id=name,
            created=0,
            root=f"folder/{name}",
            revision=None,
            digest=f"{digest}-{name}",
            architecture="LlamaForCausalLM",
            dtype="bfloat16",
            quantization=None,
            max_model_len=512,
        )
        for name in ("base", *variants)
    ]
    return ModelList(data=infos, server=ServerInfo(version="0.1.0", vllm="0.32.0", device="cpu"))


def monitor(
    reference: Path | None = None,
    folder: Path | None = None,
    digest: str = "d",
    variants: Sequence[str] = ("quantized",),
    *,
    sources: Sequence[str] = (),
) -> Monitor:
    run = None if reference is None else read_reference(reference)
    described = models(digest, variants)
    return Monitor(described, run, window_comparisons=2000, window_seconds=3600, folder=folder, sources=sources)


def values(watched: Monitor) -> Values:
    text = watched.exposition("")[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def rows(rng: np.random.Generator, count: int) -> Rows:
    return Rows(
        np.where(
            ["argmax" in name for name in STATISTICS],
            rng.integers(3, size=(count, WIDTH)),
            rng.random((count, WIDTH)),
        )
    )


def observation_of_an_item() -> Observation:
    return Observation(rows(np.random.default_rng(0), 5), Item((0, 0), (0.5, 0.5), 0, (0.0, 0.0)))


def observations(run: Run, rng: np.random.Generator) -> list[Observation]:
    """Return the run's items as a server would observe them."""
    choices = read_choices(run)
    answers = (choices.base, choices.quantized)
    truth = np.arange(choices.base.shares.shape[1]) == choices.labels[:, None]
    scores = [((each.shares - truth) ** 2).sum(axis=1) for each in answers]
    return [
        Observation(
            rows(rng, 5),
            Item(
                choices=(int(answers[0].choice[i]), int(answers[1].choice[i])),
                confidence=(float(answers[0].confidence[i]), float(answers[1].confidence[i])),
                label=int(choices.labels[i]),
                brier=(float(scores[0][i]), float(scores[1][i])),
            ),
        )
        for i in range(len(choices))
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write(tmp_path_factory.mktemp("runs") / "run", items("piqa", 400, 1, noise=1)))


@pytest.fixture
def choices(run: Run) -> Choices:
    return read_choices(run)


@pytest.mark.parametrize("bounds", [(0.1, 0.5, 1.0), (-0.5, 0.0, 0.5)])
def test_histogram_is_the_librarys(bounds: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.integers(-64, 64, 300) / 64, bounds])  # whose sums are exact in any order
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    array = ArrayHistogram("x", "Some.", bounds, label=("model", ("a", "b")), registry=ours)
    array.observe(numbers[:100], 0)
    array.observe(numbers[100:], 0)
    one = Histogram("x", "Some.", ["model"], buckets=bounds, registry=theirs)
    one.labels("b")
    for number in numbers:
        one.labels("a").observe(number)
    # Where there are values below 0 the sum could fall, which Prometheus would take for a restart: it is left out.
    left_out = ("_created",) if bounds[0] > 0 else ("_created", "_sum", "_count")
    text = [line for line in generate_latest(theirs).decode().splitlines() if not any(x in line for x in left_out)]
    assert sorted(generate_latest(ours).decode().splitlines()) == sorted(text)


def test_counters_are_what_eval_says_of_the_same_items(run: Run, choices: Choices) -> None:
    watched = monitor()
    seen = observations(run, np.random.default_rng(1))
    for observation in seen:
        watched.add([observation])
    found = values(watched)
    assert value(found, "qconf_comparisons_total") == 400
    assert value(found, "qconf_compared_tokens_total") == value(found, "qconf_token_kl_nats_count") == 2000
    assert value(found, "qconf_items_total", labelled="true") == 400
    everything = np.concatenate([each.tokens.values for each in seen])
    table = dict(zip(STATISTICS, everything.T, strict=True))
    assert value(found, "qconf_token_kl_nats_sum") == pytest.approx(table["kl"].sum())
    differ = (table["base_argmax"] != table["quantized_argmax"]).sum()
    assert value(found, "qconf_top_token_disagreements_total") == differ > 0
    kinds = flip_kinds(choices)
    for kind in ("right_to_wrong", "wrong_to_right", "wrong_to_other_wrong"):
        assert value(found, "qconf_flips_total", kind=kind) == kinds[kind].sum() > 0
    for name, answers in (("base", choices.base), ("quantized", choices.quantized)):
        assert value(found, "qconf_answers_total", model=name, correct="true") == answers.correct.sum()
        assert value(found, "qconf_choice_confidence_sum", model=name) == pytest.approx(answers.confidence.sum())
        expected = brier(answers.shares, choices.labels).mean()
        assert value(found, "qconf_brier_score_total", model=name) / 400 == pytest.approx(expected)
        assert value(found, "qconf_window_brier_score", model=name) == pytest.approx(expected)
        error = ece(answers.confidence, answers.correct).point
        assert value(found, "qconf_window_ece", model=name) == pytest.approx(error)
        gaps = [
            value(found, "qconf_calibration_hits_total", model=name, bin=f"{k:02}")
            - value(found, "qconf_calibration_confidence_total", model=name, bin=f"{k:02}")
            for k in range(1, 16)
        ]
        assert sum(map(abs, gaps)) / 400 == pytest.approx(error)


def test_items_without_a_label_count_as_such() -> None:
    watched = monitor()
    watched.add([Observation(rows(np.random.default_rng(2), 3), Item((0, 1), (0.6, 0.7), UNLABELLED, (0, 0)))])
    found = values(watched)
    assert value(found, "qconf_items_total", labelled="false") == 1
    assert value(found, "qconf_flips_total", kind="unlabelled") == 1
    assert value(found, "qconf_window_labelled_items") == 0
    assert not any(name == "qconf_window_ece" for name, _ in found)
    assert sum(number for (name, _), number in found.items() if name == "qconf_answers_total") == 0


def test_drift_is_that_of_the_command(run: Run, tmp_path: Path) -> None:
    reference = write(tmp_path / "reference", items("piqa", 500, 5))
    watched = monitor(reference)
    for observation in observations(run, np.random.default_rng(3)):
        watched.add([observation])
    frozen = read_reference(reference).reference
    offline = frozen.distances(frozen.sums(run_samples(run)))
    found = values(watched)
    assert len(offline) == 3
    for (unit, quantity), distance in offline.items():
        labels = {"unit": unit, "quantity": quantity}
        for name in ("psi", "js", "ks"):
            assert value(found, f"qconf_drift_{name}", **labels) == pytest.approx(getattr(distance, name))
            threshold = value(found, f"qconf_drift_{name}_threshold", **labels)
            assert threshold == pytest.approx(getattr(distance, f"{name}_threshold"))
        assert value(found, "qconf_drift_samples", side="window", **labels) == 400
        assert value(found, "qconf_drift_samples", side="reference", **labels) == 500
    assert value(found, "qconf_reference_info", run=str(reference), same_pair="false") == 1


def test_drift_of_tokens_is_that_of_the_corpus(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", [window("text", i) for i in range(60)], tokens("text", 60, 20, 7))
    watched = monitor(corpus)
    table = read_run(corpus).tokens
    assert table is not None
    columns = np.stack([table[name].to_numpy().astype(np.float64) for name in STATISTICS], axis=1)
    for text in np.split(columns, 60):
        watched.add([Observation(Rows(text), None)])
    found = values(watched)
    for quantity in ("kl", "base_confidence", "quantized_confidence", "confidence_delta"):
        assert value(found, "qconf_drift_psi", unit="token", quantity=quantity) == 0
        assert value(found, "qconf_drift_ks_threshold", unit="token", quantity=quantity) > 0
    assert value(found, "qconf_drift_samples", unit="token", quantity="kl", side="window") == 1200


def test_item_kl_is_the_mean_over_its_tokens() -> None:
    rng = np.random.default_rng(8)
    item = Item((0, 0), (0.5, 0.5), 0, (0, 0))
    parts = [rows(rng, count) for count in (4, 0, 7, 2)]
    kinds: Sequence[Item | None] = (item, item, None, item)
    samples = Observations([Observation(*each) for each in zip(parts, kinds, strict=True)]).samples()
    # The item without a token has no KL.
    assert samples["item", "kl"].values == pytest.approx([parts[0]["kl"].mean(), parts[3]["kl"].mean()])
    assert samples["token", "kl"].values == pytest.approx(parts[2]["kl"])
    assert len(samples["item", "base_confidence"].values) == 3


def test_a_window_slides_by_count_and_by_time() -> None:
    sums = SlidingSums(2, most=200, seconds=1000)
    for number in range(500):
        sums.add(np.array([1.0, number]), 1, now=0)
    count, total = sums.total(0)
    assert 200 - sums.step <= count <= 200
    assert total.tolist() == [count, sum(range(500 - count, 500))]
    sums.add(np.array([1.0, 0]), 1, now=900)
    assert sums.total(1000)[0] == count + 1 - sums.step  # 201 were too many
    assert sums.total(1000.1)[0] == 1
    assert sums.total(1900.1)[0] == 0
    assert sums.total(5000)[1].tolist() == [0, 0]


def test_the_newest_part_is_never_dropped_for_its_size() -> None:
    sums = SlidingSums(1, most=1, seconds=10)
    for number in range(3):
        sums.add(np.array([float(number)]), 1, now=number)
    assert (sums.total(3)[0], sums.total(3)[1].tolist()) == (1, [2])
    assert SlidingSums(1, most=PARTS * 7, seconds=1).step == 7


def test_the_window_survives_a_restart(run: Run, tmp_path: Path) -> None:
    def gauges(watched: Monitor) -> Values:
        return {key: number for key, number in values(watched).items() if "_window" in key[0] or "_drift" in key[0]}

    state = tmp_path / "state"
    make_folder(state, "--state-dir")
    first = monitor(run.path, state)
    seen = observations(run, np.random.default_rng(4))
    for observation in seen:
        first.add([observation])
    first.save()
    before = gauges(first)
    assert gauges(monitor(run.path, state)) == before
    assert value(before, "qconf_window_comparisons") == 400
    # Another pair, or another reference, begins with an empty window, and the first one's window stays where it is.
    for other in (monitor(run.path, state, digest="other"), monitor(None, state)):
        assert value(values(other), "qconf_window_comparisons") == 0
        other.add([seen[0]])
        other.save()
    assert gauges(monitor(run.path, state)) == before
    assert len(list(state.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half a file"])
def test_a_damaged_state_is_kept_aside_and_serving_goes_on(
    run: Run, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    monitor(run.path, tmp_path).save()
    state = next(tmp_path.glob("window-*.npz"))
    state.write_bytes(damage)
    again = monitor(run.path, tmp_path)
    assert value(values(again), "qconf_window_comparisons") == 0
    assert "is damaged" in caplog.text
    assert state.with_suffix(".damaged").read_bytes() == damage
    again.save()
    assert monitor(run.path, tmp_path) is not None
    assert caplog.text.count("is damaged") == 1


def test_no_damage_of_a_saved_window_keeps_the_server_from_starting(tmp_path: Path) -> None:
    """Bytes changed at random, as by a bad disk: the window is restored, or damage is reported, and nothing else."""
    rng = np.random.default_rng(9)
    window = SlidingSums(50, most=1000, seconds=100)
    for number in range(20):
        window.add(rng.random(50), 10, now=number)
    file = tmp_path / "window.npz"
    window.save(file, now=20, time_of_day=1000)
    whole = file.read_bytes()
    found = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(len(damaged), size=rng.integers(1, 5)):
            damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            SlidingSums(50, most=1000, seconds=100).load(file, now=20, time_of_day=1000)
        except Damaged:
            found += 1
    assert found > 1500


@pytest.mark.parametrize(("step", "left"), [(-5000.0, 10), (0.0, 10), (40.0, 10), (60.0, 0)])
def test_a_step_of_the_clock_counts_only_while_the_server_is_down(tmp_path: Path, step: float, left: int) -> None:
    """``step`` is what the time of day says has passed since the window was saved; forward, it may be time indeed."""
    saved = SlidingSums(1, most=1000, seconds=100)
    saved.add(np.ones(1), 10, now=500)
    saved.save(tmp_path / "window.npz", now=550, time_of_day=1_000_000)
    restored = SlidingSums(1, most=1000, seconds=100)
    restored.load(tmp_path / "window.npz", now=7, time_of_day=1_000_000 + step)
    assert restored.total(7)[0] == left
    assert restored.total(7 + 50.1)[0] == 0


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
STEPPED = """
import sys, time
from pathlib import Path
import numpy as np
from prometheus_client import CollectorRegistry
from qconf.statistics.drift import Reference
from server.monitoring.live_window import LiveWindow
from server.monitoring.observation import Observations
from server.scoring.admission import Rate
from tests.test_monitor import observation_of_an_item

def comparisons():
    return next(iter(window.collect())).samples[0].value

window = LiveWindow(1000, 3600, "pair", Reference.of({}), CollectorRegistry())
rate = Rate()
rate.working()
window.observe(Observations([observation_of_an_item()]))
before = time.time()
for offset in ("+10d", "-10d"):
    Path(sys.argv[1]).write_text(offset)
    assert abs(time.time() - before) > 9 * 86400, "the clock did not step"
    assert comparisons() == 1, offset
rate.done(100, idle=True)
assert 0 < rate._seconds < 60, rate._seconds
print("unmoved")
"""


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime (Debian: libfaketime) is not installed")
def test_a_clock_that_steps_moves_neither_the_window_nor_the_rate(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    settings = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        # A step moves the time of day, and never the monotonic clock.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-c", STEPPED, str(offset)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings, timeout=120)
    assert (done.returncode, done.stdout) == (0, "unmoved\n"), done.stderr


def test_settings_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StartError, match=r"--reference: cannot read .*manifest\.json"):
        load_reference(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StartError, match=f"--state-dir {file} cannot be written to: File exists"):
        make_folder(file, "--state-dir")
    state = tmp_path / "state"
    state.mkdir()
    watched = monitor(folder=state)
    shutil.rmtree(state)
    watched.save()  # a full or vanished disk must not end the service
    assert "--state-dir cannot be written to: No such file or directory" in caplog.text


@pytest.fixture
def exposed(run: Run) -> Monitor:
    watched = monitor(run.path)
    for observation in observations(run, np.random.default_rng(6)):
        watched.add([observation])
    return watched


def test_both_formats_have_the_same_samples(exposed: Monitor) -> None:
    text, plain = exposed.exposition("*/*")
    openmetrics, negotiated = exposed.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert plain.startswith("text/plain")
    assert negotiated.startswith("application/openmetrics-text; version=1.0.0")

    def samples(families: Iterable[Metric]) -> set[tuple[str, str]]:
        return {
            (sample.name, str(sorted(sample.labels.items())))
            for family in families
            for sample in family.samples
            if sample.name.startswith("qconf_") and not sample.name.endswith("_created")
        }

    ours = samples(parse_text(text.decode()))
    assert ours == samples(parse_openmetrics(openmetrics.decode()))  # type: ignore[no-untyped-call]
    assert len(ours) > 200


def faults(exposed: Monitor) -> tuple[int, str]:
    """Return the exit code of promtool on the server's own metrics, and what it finds."""
    lines = [line for line in exposed.exposition("")[0].decode().splitlines() if "qconf_" in line]
    text = "\n".join(line for line in lines if "_created" not in line) + "\n"
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_promtool_finds_no_fault_with_names_and_help(exposed: Monitor) -> None:
    assert faults(exposed) == (0, "")


def test_mirrored_comparisons_have_metrics_and_windows_of_their_own_by_source(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "run", items("piqa", 50, 5)))
    seen = observations(run, np.random.default_rng(1))
    asked, both = monitor(folder=tmp_path, digest="one"), monitor(folder=tmp_path, sources=("a", "b"))
    asked.add([seen[0]])
    both.add([seen[0]])
    before = values(asked)
    for _ in range(3):
        both.add_mirrored("a", [seen[1]])
    both.add_mirrored("b", [seen[2]])
    found = values(both)
    assert {key: number for key, number in found.items() if "qconf_token" in key[0]} == {
        key: number for key, number in before.items() if "qconf_token" in key[0]
    }
    assert value(found, "qconf_comparisons_total") == 1
    for source, count, observed in (("a", 3, seen[1]), ("b", 1, seen[2])):
        assert value(found, "qconf_shadow_comparisons_total", source=source) == count
        assert value(found, "qconf_shadow_window_comparisons", source=source) == count
        assert value(found, "qconf_shadow_token_kl_nats_count", source=source) == count * len(observed.tokens.values)
    both.save()
    again = values(monitor(folder=tmp_path, sources=("b", "a")))
    assert value(again, "qconf_window_comparisons") == 1
    assert value(again, "qconf_shadow_window_comparisons", source="a") == 3
    assert value(again, "qconf_shadow_window_comparisons", source="b") == 1
