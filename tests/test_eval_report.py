"""The report: one page that needs nothing else, says what the numbers say, and is drawn by a real browser."""

import base64
import dataclasses
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import typer
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

import qconf.run.folder
from eval.analysis.run import RunAnalysis, analyse_run
from eval.command import report
from eval.report.floor import floor_rows
from eval.report.format import bracket, number, signed
from eval.report.page import WORST, render, render_markdown
from eval.report.tables import COMPARED, PAIR
from eval.report.verdict import headline, sentences
from eval.report.worst import worst_items
from qconf.run.choices import read_choices
from qconf.run.columns import TOKEN_SCHEMA, ItemResult
from qconf.run.folder import ITEMS, Import, Manifest, Run, read_run
from qconf.wire import CompareRequest
from tests.browser import CHROMIUM, needs_chromium
from tests.synthetic_run import again, later, write
from tests.test_results import SCORED, manifest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=8000",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
TASKS = ("plain", "odd<b>|task")
CONTEXT = "Question: <script>alert('no')</script> & \"why\"? " + "So it goes. " * 40
CHOICES = [" <b>bold</b>", " fish & chips", ' "quoted"']
SECTIONS = (
    "verdict", "reliability", "buckets", "divergence", "flips", "tasks", "worst", "routing", "statistics", "provenance"
)  # fmt: skip
PLOTS = 9
VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}

Pair = tuple[Run, RunAnalysis]


class Page(HTMLParser):
    """The parts of a page; ``unmatched`` has the tags that were closed without being open, or left open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unmatched: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.labels: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(page)
        self.close()
        self.unmatched += self.open

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "srcset", "action", "data"):
                self.addresses.append(value or "")
            elif name == "aria-label":
                self.labels.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.unmatched.append(tag)

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.texts).append(data)


def rows() -> list[ItemResult]:
    """Return sixty items of two tasks, where the quantized model is the base model with noise."""
    rng = np.random.default_rng(7)
    found = []
    for number_ in range(60):
        base = rng.normal(size=3) * 2 - 5
        found.append(
            dataclasses.replace(
                SCORED,
                task=TASKS[number_ % 2],
                doc_id=number_,
                label=int(rng.integers(3)) if number_ % 3 else int(base.argmax()),
                n_choices=3,
                contexts=[CONTEXT],
                choices=CHOICES,
                choice_context=[0, 0, 0],
                choice_chars=[11, 12, 8],
                choice_bytes=[12, 13, 9],
                base_logprob=base.tolist(),
                quantized_logprob=(base + rng.normal(size=3) * 0.5).tolist(),
                choice_tokens=[3, 3, 3],
                base_is_greedy=[False] * 3,
                quantized_is_greedy=[False] * 3,
                choice_mean_kl=[0.01] * 3,
                choice_max_kl=[0.02] * 3,
            )
        )
    return found


def tokens() -> pa.Table:
    rng = np.random.default_rng(8)
    base = np.log(rng.uniform(0.1, 0.9, 40))
    count = len(base)
    columns = {
        "task": ["prose"] * count,
        "doc_id": [place // 10 for place in range(count)],
        "position": list(range(count)),
        "base_logprob": base,
        "quantized_logprob": base + rng.normal(size=count) * 0.05,
        "base_confidence": np.exp(base),
    }
    numbers = {name: np.abs(rng.normal(size=count)) * 0.01 for name in ("kl", "reverse_kl", "js", "total_variation")}
    rest = {name: np.zeros(count) for name in TOKEN_SCHEMA.names if name not in columns | numbers}
    arrays = [pa.array((columns | numbers | rest)[each.name]).cast(each.type) for each in TOKEN_SCHEMA]
    return pa.table(arrays, schema=TOKEN_SCHEMA)


def window() -> ItemResult:
    return dataclasses.replace(SCORED, task="prose", kind="window", n_choices=1, label=None, base_logprob=[-50.0])


def written(
    folder: Path, items: list[ItemResult], corpus: pa.Table | None = None, about: Manifest | None = None
) -> Pair:
    write(folder, items, corpus, about=about)
    return read_run(folder), analyse_run(folder, resamples=200)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return written(tmp_path_factory.mktemp("runs") / "first", [*rows(), window()], tokens())


@pytest.fixture(scope="module")
def html(pair: Pair) -> str:
    return render([pair])


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_well_formed_and_has_every_section(page: Page) -> None:
    assert page.unmatched == []
    assert len(page.ids) == len(set(page.ids))
    assert [name for name in SECTIONS if f"run-1-{name}" not in page.ids] == []
    assert "run-1-corpora" in page.ids
    assert "variants" not in page.ids


def test_the_page_needs_nothing_else(html: str, page: Page) -> None:
    assert [each for each in page.addresses if not each.startswith("#")] == []
    assert "@import" not in "".join(page.styles)
    assert "url(" not in "".join(page.styles)
    assert html.count(get_plotlyjs()) == 1
    ours = html.replace(get_plotlyjs(), "").replace(str(manifest().url), "")
    assert re.findall(r"https?://", ours) == []
    assert "default-src 'none'" in html


def test_text_of_items_is_escaped(html: str, page: Page) -> None:
    ours = html.replace(get_plotlyjs(), "")
    for raw in ("<b>bold", "<script>alert", "odd<b>"):
        assert raw not in ours
    for text in (*CHOICES, CONTEXT, TASKS[1]):
        assert " ".join(text.split()) in page.text


def test_long_names_break_after_underscores(html: str) -> None:
    assert '<th scope="row">max_<wbr>model_<wbr>len</th>' in html


def test_every_plot_is_a_figure_with_words(html: str, page: Page) -> None:
    figures = [json.loads(each) for each in page.scripts if each.startswith('{"data"')]
    assert len(figures) == html.count('class="plot"') == html.count("<figcaption>") == PLOTS
    assert all(figure["data"] for figure in figures)
    assert sum(bool(re.search(r"\d", label)) for label in page.labels) >= PLOTS


def test_sentences_say_what_the_numbers_say(pair: Pair, page: Page) -> None:
    _, analysis = pair
    overall = analysis.overall
    assert overall
    for each in (headline(analysis), *sentences(analysis)):
        assert each in page.text
    accuracy = overall.compared["accuracy"]
    beginning = next(each for each in sentences(analysis) if each.startswith("Accuracy"))
    assert bracket(accuracy.delta, True, signed) in beginning
    assert f"from {number(accuracy.base.point, True)} % to {number(accuracy.quantized.point, True)} %" in beginning
    outside = accuracy.delta.low > 0 or accuracy.delta.high < 0
    assert beginning.endswith(": significant." if outside else ": not significant.")
    flips = f"{number(overall.pair['flips'].point, True)} % of answers changed"
    assert flips in headline(analysis)
    assert f"{number(overall.buckets[0].flips, True)} % among the fifth of items" in page.text
    assert f"is {overall.temperatures.base.fit.temperature:.3f} for the base model" in page.text


@pytest.mark.parametrize(
    ("low", "point", "high", "said"),
    [
        (-0.03, -0.02, -0.01, "Accuracy fell by 2.0 points [-3.0, -1.0]"),
        (0.01, 0.02, 0.03, "Accuracy rose by 2.0 points [+1.0, +3.0]"),
        (-0.01, 0.004, 0.02, "Accuracy changed by +0.4 points [-1.0, +2.0]"),
        (-0.01, 0.0, 0.01, "Accuracy did not change"),
    ],
)
def test_a_change_is_more_than_chance_where_its_interval_leaves_out_0(
    pair: Pair, low: float, point: float, high: float, said: str
) -> None:
    _, analysis = pair
    overall = analysis.overall
    assert overall
    accuracy = overall.compared["accuracy"]
    delta = dataclasses.replace(accuracy.delta, low=low, point=point, high=high)
    compared = overall.compared | {"accuracy": dataclasses.replace(accuracy, delta=delta)}
    changed = dataclasses.replace(analysis, overall=dataclasses.replace(overall, compared=compared))
    first = sentences(changed)[0]
    assert first.startswith(said)
    assert first.endswith(": significant.") == (said.split()[1] in ("fell", "rose"))


def test_all_statistics_are_there(pair: Pair, page: Page) -> None:
    _, analysis = pair
    assert analysis.overall
    for name, heading, share in COMPARED:
        if name in analysis.overall.compared:
            assert heading in page.text
            assert bracket(analysis.overall.compared[name].delta, share, signed) in page.text
    for name, heading, share in PAIR:
        assert f"{heading} {number(analysis.overall.pair[name].point, share)}" in page.text


def test_flip_matrix_counts_all_items(pair: Pair, html: str) -> None:
    run, _ = pair
    choices = read_choices(run).labelled
    base, quantized = choices.base.correct, choices.quantized.correct
    counts = [int((one & other).sum()) for one in (base, ~base) for other in (quantized, ~quantized)]
    assert list(map(int, re.findall(r"<strong>(\d+)</strong>", html))) == counts
    assert sum(counts) == len(choices)


def test_worst_items_are_those_whose_true_choice_lost_most(pair: Pair) -> None:
    run, _ = pair
    labelled = read_choices(run).labelled
    change = labelled.quantized.true_share - labelled.base.true_share
    found = worst_items(run, labelled, 10)
    assert [each.doc_id for each in found] == labelled.doc_id[np.argsort(change)[:10]].tolist()
    assert found[0].change == change.min()
    for each in found:
        assert CONTEXT.endswith(each.tail)
        assert (len(each.tail), each.cut) == (300, True)
        assert sum(choice.true for choice in each.choices) == 1
        assert sum(choice.base for choice in each.choices) == pytest.approx(1)
        true = next(choice for choice in each.choices if choice.true)
        assert true.quantized - true.base == pytest.approx(each.change)
    assert len(worst_items(run, labelled, 1_000)) == (change < 0).sum()


def test_worst_items_link_into_the_page_of_a_server(pair: Pair, html: str) -> None:
    run, _ = pair
    worst = worst_items(run, read_choices(run).labelled, WORST)
    page = Page(render([pair], server="http://localhost:8000/"))
    links = [each for each in page.addresses if each.startswith("http://localhost:8000/#")]
    assert len(links) == len(worst)
    for link, item in zip(links, worst, strict=True):
        fragment = link.partition("#")[2]
        view = json.loads(base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4)))
        request = CompareRequest.model_validate(view["request"])
        assert request.prompt == item.contexts[0]
        assert request.continuations == [choice.text for choice in item.choices]
        assert request.label is not None
        assert item.choices[request.label].true
        assert view["variant"] == "quantized"
    assert not [each for each in Page(html).addresses if each.startswith("http")]


def test_a_run_with_only_corpora_has_no_items(tmp_path: Path) -> None:
    pair = written(tmp_path / "prose", [window()], tokens())
    page = Page(render([pair]))
    assert page.unmatched == []
    assert [name for name in SECTIONS if f"run-1-{name}" in page.ids] == ["verdict", "provenance"]
    assert "Perplexity of prose went from" in page.text
    assert headline(pair[1]).startswith("Perplexity of prose ")
    assert "Perplexity of prose went from" in render_markdown([pair])


def test_an_imported_run_names_its_files(tmp_path: Path) -> None:
    imported = Import(base=["samples_base.jsonl"], quantized=["samples_quantized.jsonl"])
    about = manifest().model_copy(update={"subject": None, "timing": None, "url": None, "imported": imported})
    pair = written(tmp_path / "imported", rows(), about=about)
    page = Page(render([pair]))
    assert page.unmatched == []
    assert "samples_base.jsonl" in page.text
    assert "samples_quantized.jsonl" in page.text
    assert "imported from sample files" in page.text


def test_provenance_is_at_the_end(page: Page) -> None:
    assert page.ids[-1] == "run-1-provenance"
    for each in (
        "fake/base",
        "digest of quantized",
        "gptq",
        "bfloat16",
        "vLLM 0.32.0",
        "200 resamples, seed 0",
        "3.11",
    ):
        assert each in page.text


def test_a_noise_floor_is_shown(pair: Pair, tmp_path: Path) -> None:
    run, _ = pair
    second = again(rows(), 1, base=0.2, quantized=0.1)
    floor = write(tmp_path / "second", [*second, window()], tokens(), about=later())
    analysis = analyse_run(run.path, floor=floor, resamples=100)
    page = Page(render([(run, analysis)]))
    assert analysis.floor
    assert analysis.floor.overall
    flips = analysis.floor.overall.base["flips"]
    assert (
        f"the base model changes {number(flips.point, True)} % of its own answers {bracket(flips, True)}" in page.text
    )
    assert "run-1-floor" in page.ids
    assert str(floor) in page.text
    for each in sentences(analysis):
        assert each in page.text
    for row in (*floor_rows(analysis.floor.overall), *floor_rows(analysis.floor.corpora["prose"])):
        assert " ".join(" ".join(row).split()) in page.text


def test_a_model_beside_itself_is_shown_without_worst_items(tmp_path: Path) -> None:
    same = [dataclasses.replace(each, quantized_logprob=each.base_logprob) for each in rows()]
    page = Page(render([written(tmp_path / "same", same)]))
    assert "Accuracy did not change" in page.text
    assert "true choice lost any share." in page.text


def test_markdown_says_the_same(pair: Pair) -> None:
    _, analysis = pair
    text = render_markdown([pair])
    plain = text.replace("\\", "")
    for each in (headline(analysis), *sentences(analysis)):
        assert each in plain
    assert "odd\\<b>\\|task" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {6, 9}
    assert len(text) < 6_000


def test_the_command_writes_three_files_and_reads_each_run_once(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pair[0].path
    opened: list[Path] = []
    read_table = qconf.run.folder._read_table

    def counted(path: Path, schema: pa.Schema) -> object:
        opened.append(path)
        return read_table(path, schema)

    monkeypatch.setattr("qconf.run.folder._read_table", counted)
    out = tmp_path / "report.v1.html"
    report([folder], out, seed=0, resamples=100)
    written = [out, out.with_suffix(".md"), out.with_suffix(".json")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert opened == [folder / ITEMS]
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert written[1].read_text().startswith("# ")
    assert json.loads(written[2].read_text())[0]["path"] == str(folder)


@pytest.mark.parametrize("name", ["x.md", "x.json", "x", "x.txt"])
def test_a_page_of_another_name_is_refused_before_anything_is_written(
    tmp_path: Path, pair: Pair, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """``x.md`` would be the page and the text, one over the other."""
    with pytest.raises(typer.Exit) as stopped:
        report([pair[0].path], tmp_path / name)
    assert stopped.value.exit_code == 64
    expected = f"--out is {tmp_path / name}, expected the page's name, which ends in .html or .htm"
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def browse(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    profile = page.with_name("profile")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@needs_chromium
@pytest.mark.parametrize(("scheme", "hover"), [(0, 2), (1, 1)], ids=["dark, with a mouse", "light, without"])
def test_a_browser_draws_the_plots(tmp_path: Path, html: str, scheme: int, hover: int) -> None:
    path = tmp_path / "report.html"
    path.write_text(html)
    settings = f"preferredColorScheme={scheme},primaryHoverType={hover},availableHoverTypes={hover}"
    done = browse(path, "--window-size=1200,2000", f"--blink-settings={settings}", "--dump-dom")
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    drawn = done.stdout.split("</figure>")[:PLOTS]
    assert len(drawn) == PLOTS
    assert [place for place, figure in enumerate(drawn) if 'class="main-svg"' not in figure] == []
    base = "rgb(0, 114, 178)" if scheme else "rgb(86, 180, 233)"
    assert base in drawn[0]
    # Plots can be zoomed with a mouse; without one, touches scroll the page.
    assert ("cursor-ew-resize" in drawn[1]) == (hover == 2)
    assert "var(--" not in "".join(re.findall(r"<svg.*?</svg>", "".join(drawn), re.DOTALL))


def fits(folder: Path, html: str, width: int) -> int:
    """Check that a page, as report.html, and its plots are no wider than the window; return how many are drawn."""
    # A headless window is never narrower than 500 pixels: a frame is.
    path, frame = folder / "report.html", folder / "frame.html"
    script = """<script>setTimeout(() => {
        const edges = [...document.querySelectorAll(".main-svg")].map((each) => each.getBoundingClientRect().right);
        const widths = [innerWidth, document.documentElement.scrollWidth, ...edges.map(Math.ceil)];
        parent.postMessage(widths.join(" "), "*");
    }, 2000)</script>"""
    path.write_text(html.replace("</body>", f"{script}</body>"))
    frame.write_text(
        f'<body style="margin:0"><iframe src="report.html" style="width:{width}px;height:2000px;border:0"></iframe>'
        "<pre></pre><script>onmessage = (event) => { document.querySelector('pre').textContent = event.data }</script>"
    )
    measured = re.search(r"<pre>([\d ]+)</pre>", browse(frame, "--window-size=1200,2000", "--dump-dom").stdout)
    assert measured
    inner, content, *right_edges = map(int, measured[1].split())
    assert (inner, content) == (width, width)
    assert max(right_edges) <= width
    return len(right_edges)


@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_fits_its_window(tmp_path: Path, html: str, width: int) -> None:
    assert fits(tmp_path, html, width) >= PLOTS
    shot = tmp_path / "report.png"
    browse(tmp_path / "frame.html", f"--window-size={max(width, 500)},2000", f"--screenshot={shot}")
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 50_000
