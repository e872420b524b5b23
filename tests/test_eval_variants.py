"""Quantized variants of one base: what may be compared, the numbers, the plots, the verdict, the commands."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from client.bench.sources.load import BenchOptions
from eval.analysis.run import RunAnalysis, analyse_run
from eval.analysis.variants import check_variants, differences, undominated
from eval.report.format import bracket, signed, with_interval
from eval.report.page import render, render_markdown
from eval.report.plots.tradeoff import tradeoff_plot
from eval.report.variants import Variants, compare_variants, reasons, run_names, ship_sentence, variants_tables
from qconf.rules import Rule
from qconf.run.choices import EvalError, read_choices
from qconf.run.folder import Import, Manifest, Run, read_run
from tests.browser import needs_chromium
from tests.fake_server import MODELS, SERVER, FakeServer, compare
from tests.replays import run
from tests.synthetic_run import window, write
from tests.test_eval_report import Page, browse, fits
from tests.test_results import manifest
from tests.variants import NOISE, SIZES, corpus, described, rows, write_variant

Pairs = list[tuple[Run, RunAnalysis]]
LENIENT = [Rule(statistic="accuracy", at_least=-0.5), Rule(statistic="flips", at_most=0.9)]
STRICT = [Rule(statistic="flips", at_most=0.15)]
IMPOSSIBLE = [Rule(statistic="flips", at_most=0.0001)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    place = tmp_path_factory.mktemp("runs")
    folders = [write_variant(place / name, name, with_corpus=True) for name in SIZES]
    return [(read_run(folder), analyse_run(folder, resamples=100)) for folder in folders]


@pytest.fixture(scope="module")
def variants(pairs: Pairs) -> Variants:
    return compare_variants(pairs, STRICT)


@pytest.mark.parametrize(
    ("sizes", "losses", "expected"),
    [
        ([8, 4, 3], [0.1, 0.2, 0.3], [True, True, True]),
        ([8, 4, 3], [0.3, 0.2, 0.1], [False, False, True]),
        ([8, 4, 4], [0.1, 0.2, 0.3], [True, True, False]),
        ([8, 4, 3], [0.2, 0.2, 0.3], [False, True, True]),
        ([4, 4], [0.2, 0.2], [True, True]),
    ],
)
def test_undominated_is_pareto_optimal(sizes: list[float], losses: list[float], expected: list[bool]) -> None:
    assert undominated(sizes, losses) == expected


def test_variants_are_compared_item_by_item(pairs: Pairs) -> None:
    """The means are those of a loop with scipy, the interval of accuracy about that of scipy's paired bootstrap."""
    values: dict[str, list[Any]] = {"kl": [], "accuracy": [], "flips": []}
    for read, _ in pairs:
        labelled = read_choices(read).labelled
        base, quantized = labelled.base_logprobs, labelled.quantized_logprobs
        shares = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (base, quantized)]
        values["kl"].append(stats.entropy(*shares, axis=1))
        values["accuracy"].append((quantized.argmax(axis=1) == labelled.labels).astype(float))
        values["flips"].append((base.argmax(axis=1) != quantized.argmax(axis=1)).astype(float))
    found = differences([read for read, _ in pairs])
    assert [(each.one, each.other) for each in found] == [(0, 1), (0, 2), (1, 2)]
    for pair in found:
        for name, each in pair.statistics.items():
            expected = values[name][pair.one] - values[name][pair.other]
            assert each.point == pytest.approx(expected.mean(), abs=1e-12)
            assert each.low < each.point < each.high
    last = found[-1].statistics["accuracy"]
    drawn = stats.bootstrap((values["accuracy"][1] - values["accuracy"][2],), np.mean, rng=0).confidence_interval
    # A bound allows for an item that was never seen: half a point in 200 items.
    assert (last.low, last.high) == pytest.approx((drawn.low, drawn.high), abs=0.015)


def test_what_variants_have_in_common_cancels(pairs: Pairs) -> None:
    """The interval of the difference is narrower than that of two models on items of their own."""
    (_, one), (_, other), _ = pairs
    assert one.overall
    assert other.overall
    widths = [each.high - each.low for each in (a.compared["accuracy"].quantized for a in (one.overall, other.overall))]
    paired = differences([read for read, _ in pairs])[0].statistics["accuracy"]
    assert paired.high - paired.low < 0.6 * math.hypot(*widths)


def test_the_order_of_items_does_not_matter(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / name, rows(name)[:: -1 if name == "w4" else 1], about=described(name)) for name in ("w8", "w4")
    ]
    straight = write(tmp_path / "straight", rows("w4"), about=described("w4"))
    runs = [read_run(folder) for folder in (*folders, straight)]
    check_variants(runs)
    mixed, ordered, same = differences(runs)
    assert mixed.statistics == ordered.statistics
    assert all(each.point == 0 for each in same.statistics.values())


def test_a_row_for_each_variant_has_what_its_own_report_says(pairs: Pairs, variants: Variants) -> None:
    table, pair_table = variants_tables(variants)
    assert [row[:4] for row in table.rows] == [
        ["fake/w8", "pass", "1.00 MB", "8.00"],
        ["fake/w4", "pass", "500 kB", "4.00"],
        ["fake/w3", "fail", "450 kB", "3.60"],
    ]
    for row, (_, analysis) in zip(table.rows, pairs, strict=True):
        cells = dict(zip(table.head, row, strict=True))
        overall, corpus = analysis.overall, analysis.corpora["prose"]
        assert overall
        accuracy, ece = overall.compared["accuracy"], overall.compared["ece"]
        assert cells["KL per token, prose"] == with_interval(corpus.means["kl"], False)
        assert cells["KL of choices"] == with_interval(overall.pair["kl"], False)
        ends = f"{100 * accuracy.base.point:.1f} → {100 * accuracy.quantized.point:.1f}"
        assert cells["accuracy, Δ"].startswith(f"{ends}, {signed(accuracy.delta.point, True)} [")
        assert cells["flips"] == with_interval(overall.pair["flips"], True)
        assert cells["ECE"] == with_interval(ece.quantized, True)
        assert bracket(ece.delta, True, signed) in cells["ECE Δ"]
        assert bracket(overall.compared["confidence"].delta, True, signed) in cells["confidence Δ"]
        assert cells["perplexity ratio, prose"] == with_interval(corpus.perplexity_ratio, False)
    assert "Variants of fake/base (2.00 MB, 16.00 bits per weight), on 200 items" in table.caption
    assert [row[0] for row in pair_table.rows] == [
        "fake/w8 less fake/w4", "fake/w8 less fake/w3", "fake/w4 less fake/w3"
    ]  # fmt: skip


def test_the_smallest_variant_that_passes_is_named(pairs: Pairs) -> None:
    def said(rules: list[Rule] | None) -> tuple[str | None, str]:
        found = compare_variants(pairs, rules)
        return found.outcome, ship_sentence(found)

    assert said(LENIENT) == ("pass", f"The smallest variant that passes the gate is fake/w3: {W3}.")
    assert said(STRICT) == (
        "pass",
        "The smallest variant that passes the gate is fake/w4: 500 kB, 4.00 bits per weight.",
    )
    outcome, sentence = said(IMPOSSIBLE)
    assert (outcome, sentence) == ("fail", "No variant passes the gate.")
    assert said(None) == (
        None, "Which of these to ship is for a gate to decide: with --gate FILE, the smallest that passes is named."
    )  # fmt: skip


W3 = "450 kB, 3.60 bits per weight"


def test_an_inconclusive_variant_is_named(pairs: Pairs) -> None:
    limit = pairs[0][1].overall
    assert limit
    found = compare_variants(pairs, [Rule(statistic="flips", at_most=limit.pair["flips"].point * 1.1)])
    assert found.outcome == "inconclusive"
    assert ship_sentence(found) == "No variant passes the gate; inconclusive: fake/w8."
    first, *_ = reasons(found)
    assert first.startswith("fake/w8: inconclusive, flips of overall is ")
    assert "more items would settle it" in first
    assert [row[1] for row in variants_tables(found)[0].rows] == ["inconclusive", "fail", "fail"]


def test_variants_of_equal_size_are_both_named(pairs: Pairs) -> None:
    found = compare_variants(pairs, LENIENT)
    same = [dataclasses.replace(each, size=found.each[2].size) for each in found.each]
    sentence = ship_sentence(dataclasses.replace(found, each=same))
    assert sentence == f"The smallest variants that pass the gate are fake/w8, fake/w4, fake/w3: {W3}."


def test_unknown_sizes_are_said(tmp_path: Path) -> None:
    about = described("w4")
    assert about.subject is not None
    unknown = about.subject.models.quantized.model_copy(update={"size": None})
    models = about.subject.models.model_copy(update={"quantized": unknown})
    about = about.model_copy(update={"subject": about.subject.model_copy(update={"models": models})})
    folders = [write_variant(tmp_path / "w8", "w8"), write_variant(tmp_path / "w4", "w4", about=about)]
    pairs = [(read_run(each), analyse_run(each, resamples=100)) for each in folders]
    found = compare_variants(pairs, LENIENT)
    assert found.losses == []
    assert variants_tables(found)[0].rows[1][2:4] == ["-", "-"]
    assert reasons(found) == ["The size of fake/w4 is not known, so loss and size are not compared."]
    assert ship_sentence(found) == "The gate is passed by fake/w8, fake/w4; which is smallest is not known."


def test_equal_names_have_the_folders_with_them(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "other" / "b", tmp_path / "w8"]
    names = ["w4", "w4", "w4", "w8"]
    runs = [read_run(write_variant(folder, name)) for folder, name in zip(folders, names, strict=True)]
    assert run_names(runs) == ["fake/w4 (a)", f"fake/w4 ({folders[1]})", f"fake/w4 ({folders[2]})", "fake/w8"]
    assert run_names(runs[:1]) == ["a"]


def test_the_plots_mark_the_undominated_variants(variants: Variants) -> None:
    names = [each.name for each in variants.each]
    assert [loss.name for loss in variants.losses] == ["kl of prose", "kl of overall", "delta accuracy of overall"]
    assert variants.losses[0].undominated == [True, True, True]
    assert variants.losses[2].undominated == [False, True, True]
    for loss in variants.losses:
        plot = tradeoff_plot(names, loss)
        traces = {trace["name"]: trace for trace in json.loads(plot.figure)["data"]}
        scale = 100 if loss.share else 1
        for title, marked in (("undominated", True), ("dominated", False)):
            places = [place for place, best in enumerate(loss.undominated) if best == marked]
            trace = traces[title]
            assert trace["text"] == [names[place].removeprefix("fake/") for place in places]
            assert trace["x"] == [loss.sizes[place].bits_per_weight for place in places]
            values = [loss.values[place] for place in places]
            assert trace["y"] == pytest.approx([scale * each.point for each in values], abs=1e-4)
            bars = trace["error_y"]
            assert bars["array"] == pytest.approx([scale * (each.high - each.point) for each in values], abs=1e-4)
            assert bars["arrayminus"] == pytest.approx([scale * (each.point - each.low) for each in values], abs=1e-4)
        assert ("fake/w8, undominated: 1.00 MB" in plot.words) == loss.undominated[0]


def test_names_in_plots_are_shortened_and_escaped(variants: Variants) -> None:
    loss = dataclasses.replace(variants.losses[0], heading="KL per token of <i>")
    drawn = json.loads(tradeoff_plot(["organization/a-model<b>-w8-g128", "w4", "w3"], loss).figure)
    first = drawn["data"][0]
    assert first["text"][0] == "…on/a-model&lt;b&gt;-w8-g128"
    assert first["hovertext"][0].startswith("organization/a-model&lt;b&gt;-w8-g128: 1.00 MB")
    assert drawn["layout"]["yaxis"]["title"]["text"] == "KL per token of &lt;i&gt;, nats"


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["org/m-w8", "org/m-w4-g32", "org/m-w4"], ["w8", "w4-g32", "w4"]),
        (["org/m-w4 (a)", "org/m-w4 (b)", "org/m-w8"], ["w4 (a)", "w4 (b)", "w8"]),
        (["awq", "gptq", "fp8"], ["awq", "gptq", "fp8"]),
    ],
)
def test_labels_leave_out_what_all_names_begin_with(variants: Variants, names: list[str], labels: list[str]) -> None:
    loss = dataclasses.replace(variants.losses[0], undominated=[True] * 3)
    assert json.loads(tradeoff_plot(names, loss).figure)["data"][0]["text"] == labels


def test_labels_of_neighbours_are_apart(variants: Variants) -> None:
    """Of two that are close, the upper one's label is above it and the lower one's below."""
    loss = variants.losses[0]
    sizes = [
        size.model_copy(update={"bits_per_weight": bits}) for size, bits in zip(loss.sizes, (8, 4, 4.1), strict=True)
    ]
    values = [dataclasses.replace(loss.values[0], point=point) for point in (0.001, 0.02, 0.021)]
    close = dataclasses.replace(loss, sizes=sizes, values=values, undominated=[True] * 3)
    drawn = json.loads(tradeoff_plot(["a", "b", "c"], close).figure)["data"][0]
    assert drawn["textposition"] == ["bottom left", "bottom right", "top right"]


def test_without_labels_only_corpora_are_compared(tmp_path: Path) -> None:
    windows = [window("prose", number) for number in range(20)]
    folders = [write(tmp_path / name, windows, corpus(name), about=described(name)) for name in ("w8", "w4")]
    found = compare_variants([(read_run(each), analyse_run(each, resamples=100)) for each in folders], None)
    assert found.differences == []
    (table,) = variants_tables(found)
    assert list(table.head) == [
        "variant", "weights", "bits per weight", "KL per token, prose", "perplexity ratio, prose"
    ]  # fmt: skip
    assert [loss.name for loss in found.losses] == ["kl of prose"]


def of_another_base(about: Manifest) -> Manifest:
    assert about.subject is not None
    models = about.subject.models
    base = models.base.model_copy(update={"root": "other/base", "digest": "0123"})
    subject = about.subject.model_copy(update={"models": models.model_copy(update={"base": base})})
    return about.model_copy(update={"subject": subject})


def without_special_tokens(about: Manifest) -> Manifest:
    assert about.subject is not None
    settings = about.subject.settings.model_copy(update={"add_special_tokens": False})
    return about.model_copy(update={"subject": about.subject.model_copy(update={"settings": settings})})


def of_tasks(**changes: Any) -> Callable[[Manifest], Manifest]:
    def change(about: Manifest) -> Manifest:
        assert about.subject is not None
        tasks = [each.model_copy(update=changes) for each in about.subject.tasks]
        return about.model_copy(update={"subject": about.subject.model_copy(update={"tasks": tasks})})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_base, "{0} and {1} are not of one base model: fake/base has digest digest of base, other/base has"),
        (without_special_tokens, "{1} has add_special_tokens False, expected True as in {0}"),
        (of_tasks(name="piqa"), "'boolq' is in {0} and not in {1}: expected the same tasks in both"),
        (of_tasks(digest="other"), "'boolq' has the digest other in {1}, expected abc as in {0}"),
        (of_tasks(num_fewshot=5), "'boolq' has the num_fewshot 5 in {1}, expected 0 as in {0}"),
        (of_tasks(items=9), "'boolq' has the items 9 in {1}, expected 2 as in {0}"),
    ],
)
def test_runs_that_are_not_variants_are_refused(
    tmp_path: Path, change: Callable[[Manifest], Manifest], message: str
) -> None:
    first = write_variant(tmp_path / "w8", "w8")
    other = write_variant(tmp_path / "w4", "w4", about=change(described("w4")))
    assert message.format(first, other) in refused(first, other)


def test_other_items_are_refused(tmp_path: Path) -> None:
    """Of a replay that stopped early, the tasks are the same and the items are not."""
    first = write_variant(tmp_path / "w8", "w8")
    fewer = write(tmp_path / "w4", rows("w4")[:150], about=described("w4"))
    assert f"document 150 of 'piqa' is in {first} and not in {fewer}: expected the same documents" in refused(
        first, fewer
    )
    relabelled = [dataclasses.replace(each, label=(each.label or 0) ^ 1) for each in rows("w3")]
    other = write(tmp_path / "w3", relabelled, about=described("w3"))
    found = refused(first, other)
    assert "document 0 of 'piqa' has the label" in found
    assert str(first) in found
    assert str(other) in found


def test_imported_runs_and_a_run_given_twice_are_refused(tmp_path: Path) -> None:
    first = write_variant(tmp_path / "w8", "w8")
    assert f"{first} is given twice" in refused(first, first)
    files = Import(base=["base.jsonl"], quantized=["quantized.jsonl"])
    about = manifest().model_copy(update={"subject": None, "timing": None, "imported": files})
    imported = write_variant(tmp_path / "imported", "w4", about=about)
    assert f"{imported} was imported and has no digests of its models" in refused(first, imported)


def refused(*folders: Path) -> str:
    with pytest.raises(EvalError) as caught:
        check_variants([read_run(folder) for folder in folders])
    return str(caught.value)


@pytest.fixture(scope="module")
def html(pairs: Pairs, variants: Variants) -> str:
    return render(pairs, variants)


def test_the_page_begins_with_the_variants(html: str, variants: Variants) -> None:
    page = Page(html)
    assert page.unmatched == []
    assert len(page.ids) == len(set(page.ids))
    assert page.ids[0] == "variants"
    for each in (ship_sentence(variants), *reasons(variants)):
        assert each in page.text
    for table in variants_tables(variants):
        assert table.caption in page.text
        for row in table.rows:
            for cell in row:
                assert " ".join(cell.split()) in page.text
    # The sections of the runs have the variants' names, and links lead there.
    assert [name for name in page.addresses if name.startswith("#run-")] == ["#run-1", "#run-2", "#run-3"]
    assert [each for each in page.texts if each.strip() == "fake/w4"]


def test_markdown_says_the_same(pairs: Pairs, variants: Variants) -> None:
    plain = render_markdown(pairs, variants).replace("\\", "")
    for each in (ship_sentence(variants), *reasons(variants)):
        assert each in plain
    for table in variants_tables(variants):
        for row in table.rows:
            assert f"| {' | '.join(cell.strip() for cell in row)} |" in plain


@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_draws_the_page_within_its_window(tmp_path: Path, html: str, width: int) -> None:
    assert fits(tmp_path, html, width) >= html.count('class="plot"')
    path = tmp_path / "report.html"
    done = browse(path, "--window-size=1200,2000", "--dump-dom")
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    first, *_ = done.stdout.split("</figure>")
    assert "undominated" in first
    assert "fake/w4" in first


def variant_server(name: str) -> FakeServer:
    """Return a server whose quantized model is another one: its differences from the base are larger or smaller."""
    size = MODELS[1]["size"] | {"bytes": SIZES[name], "bits_per_weight": SIZES[name] / 125_000}
    quantized = MODELS[1] | {"root": f"fake/{name}", "digest": f"digest of {name}", "size": size}

    def answer(request: httpx.Request) -> httpx.Response | None:
        match request.url.path:
            case "/v1/models":
                served = {"object": "list", "data": [MODELS[0], quantized], "server": SERVER}
                return httpx.Response(200, json=served)
            case "/compare":
                body = compare(json.loads(request.content))
                body["models"]["quantized"] = quantized
                for each in body["continuations"]:
                    base = each["base"]["logprob"]
                    each["quantized"]["logprob"] = base + 5 * NOISE[name] * (each["quantized"]["logprob"] - base)
                return httpx.Response(200, json=body)
        return None

    return FakeServer(answer)


@pytest.fixture
def replayed(options: BenchOptions, tmp_path: Path) -> list[Path]:
    """Replay two small tasks against three variants, and return the run folders."""
    folders = [tmp_path / "runs" / name for name in SIZES]
    for folder in folders:
        failed, _ = run(dataclasses.replace(options, out=folder), variant_server(folder.name))
        assert failed == 0
    return folders


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eval", *map(str, arguments), "--resamples", "100"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_commands_on_replayed_runs(replayed: list[Path], tmp_path: Path) -> None:
    out, gate = tmp_path / "variants.html", tmp_path / "gate.toml"
    gate.write_text('[[rule]]\nstatistic = "flips"\nat_most = 0.4\n')
    done = command("report", *replayed, "--out", out, "--gate", gate)
    files = [out, out.with_suffix(".md"), out.with_suffix(".json")]
    assert (done.returncode, done.stderr) == (0, "")
    *paths, sentence = done.stdout.splitlines()
    assert paths == [str(each) for each in files]
    numbers = json.loads(files[2].read_text())
    outcomes = {each["name"]: each["outcome"] for each in numbers["variants"]}
    assert outcomes["fake/w8"] == "pass"
    smallest = min((each for each in numbers["variants"] if each["outcome"] == "pass"), key=lambda each: each["bytes"])
    assert sentence.startswith(f"The smallest variant that passes the gate is {smallest['name']}: ")
    assert sentence in Page(files[0].read_text()).text
    assert [each["path"] for each in numbers["runs"]] == [str(folder) for folder in replayed]
    assert set(numbers["undominated"]) == {"kl of overall", "delta accuracy of overall"}
    assert {(each["one"], each["other"]) for each in numbers["differences"]} == {
        ("fake/w8", "fake/w4"), ("fake/w8", "fake/w3"), ("fake/w4", "fake/w3")
    }  # fmt: skip
    table = command("table", *replayed, "--gate", gate)
    assert (table.returncode, table.stderr) == (0, "")
    assert sentence in table.stdout
    assert re.search(r"^fake/w4 +\w+ +500 kB", table.stdout, re.MULTILINE)
    as_json = command("table", *replayed, "--gate", gate, "--json")
    assert json.loads(as_json.stdout) == numbers


@pytest.mark.parametrize(
    ("limit", "code", "sentence"),
    [
        (0.99, 0, "The smallest variant that passes the gate is fake/w3: "),
        (0.05, 2, "No variant passes the gate; inconclusive: fake/w8"),
        (None, 0, "Which of these to ship is for a gate to decide"),
    ],
)
def test_exit_codes_are_the_gates(
    replayed: list[Path], tmp_path: Path, limit: float | None, code: int, sentence: str
) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text(f'[[rule]]\nstatistic = "flips"\nat_most = {limit}\n')
    done = command("table", *replayed, *(("--gate", gate) if limit else ()))
    assert (done.returncode, done.stderr) == (code, "")
    assert sentence in done.stdout


def test_where_all_variants_fail_so_does_the_command(replayed: list[Path], tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text('[[rule]]\nstatistic = "confidence"\nof = "base"\nat_most = 0.1\n')
    done = command("report", *replayed, "--gate", gate, "--out", tmp_path / "variants.html")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "No variant passes the gate."


def test_bad_input_is_told(replayed: list[Path], tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text('[[rule]]\nstatistic = "flips"\nat_most = 1\n')
    out = tmp_path / "variants.html"
    for arguments, message in (
        ((replayed[0], "--gate", gate), f"--gate is {gate} with one run, expected several"),
        ((replayed[0], replayed[0]), f"{replayed[0]} is given twice"),
        ((*replayed, "--floor", replayed[0]), f"--floor is {replayed[0]} with 3 runs, expected one run"),
        ((*replayed, "--gate", tmp_path / "none.toml"), "cannot read"),
    ):
        done = command("report", *arguments, "--out", out)
        assert (done.returncode, done.stderr.count("\n")) == (64, 1)
        assert message in done.stderr
    assert not out.exists()
