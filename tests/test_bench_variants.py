"""Replays against servers with several quantized variants: a run for each, as if it were the only one."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from client.bench.display.live import LiveDisplay
from client.bench.display.scoreboard import Scoreboard
from client.bench.items import TaskError
from client.bench.pace import Pace
from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions
from client.errors import BadReply
from qconf.run.folder import RunError, read_run
from tests.fake_server import FakeServer, error, models
from tests.replays import run, stopped

TWO, THREE = ("q4", "q3"), ("q4", "q3", "q2.5-g64")


def serving(*variants: str) -> FakeServer:
    return FakeServer(variants=variants)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> tuple[object, ...]:
    """Return everything of a run that its server's answers decide."""
    read = read_run(folder)
    assert read.manifest.subject is not None
    tables = tuple((folder / name).read_bytes() for name in files(folder) if name.endswith(".parquet"))
    return read.manifest.subject.models, read.manifest.subject.tasks, read.manifest.counts, read.results, *tables


@pytest.fixture
def mixed(options: BenchOptions, tmp_path: Path) -> BenchOptions:
    """Return a replay of a task, and of a corpus that has tokens to keep."""
    corpus = tmp_path / "text.txt"
    corpus.write_text("abcdefghij" * 30)
    return replace(options, corpora=[corpus], window=100)


@pytest.mark.parametrize("variants", [TWO, THREE])
def test_each_variant_has_the_run_that_it_has_alone(mixed: BenchOptions, variants: Sequence[str]) -> None:
    fake = serving(*variants)
    failed, text = run(mixed, fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 43 + 3
    names = ("items.parquet", "manifest.json", "results.json", "tokens.parquet")
    assert files(mixed.out) == sorted(f"{variant}/{name}" for variant in variants for name in names)
    runs = []
    for variant in variants:
        alone = replace(mixed, out=mixed.out.with_name(f"alone with {variant}"))
        run(alone, serving(variant))
        runs.append(contents(mixed.out / variant))
        assert runs[-1] == contents(alone.out)
    assert len({each[-1] for each in runs}) == len({each[-2] for each in runs}) == len(variants)
    folders = ", ".join(str(mixed.out / variant) for variant in variants)
    assert text.splitlines()[-1].endswith(f"Runs written to {folders}")


def test_the_first_variant_is_shown_while_it_runs_and_all_at_the_end(options: BenchOptions) -> None:
    _, text = run(options, serving(*TWO))
    lines = text.splitlines()
    heads = [line.split()[:2] for line in lines[:3]]
    assert heads == [["base", "fake/base"], ["q4", "fake/q4"], ["q3", "fake/q3"]]
    progress = next(line for line in lines if line.startswith("43/43 items"))
    assert ", q4: accuracy " in progress
    tables = text[text.index("\nq4\n") :].split("\nq3\n")
    assert len(tables) == 2
    overall = [next(line for line in table.splitlines() if line.startswith("overall")) for table in tables]
    assert overall[0] != overall[1]
    assert [table.count("lm-eval's metrics") for table in tables] == [1, 1]


def test_the_screen_names_the_variant() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(LiveDisplay(console, Scoreboard(["sky"]), {"sky": 3}, Pace(1.0), variant="q4").render())
    assert "q4" in console.file.getvalue()  # type: ignore[attr-defined]


def test_one_variant_of_several(options: BenchOptions) -> None:
    failed, text = run(replace(options, variant="q3"), serving(*TWO))
    assert failed == 0
    alone = replace(options, out=options.out.with_name("alone"))
    run(alone, serving("q3"))
    assert contents(options.out) == contents(alone.out)
    assert f"Run written to {options.out}" in text
    assert "q4" not in text
    assert "q3: accuracy" not in text


def test_a_variant_that_is_not_served_is_refused_with_those_that_are(options: BenchOptions) -> None:
    fake = serving(*THREE)
    with pytest.raises(TaskError, match=r"^--variant is 'q5', expected a variant .*: q4, q3, q2\.5-g64$"):
        run(replace(options, variant="q5"), fake)
    assert fake.bodies("/compare") == []
    assert not options.out.exists()


def test_until_needs_one_variant(options: BenchOptions, tmp_path: Path) -> None:
    rules = tmp_path / "gate.toml"
    rules.write_text('[[rule]]\nstatistic = "flips"\nat_most = 0.9\n')
    judged = replace(options, until=rules)
    with pytest.raises(TaskError, match=r"--until judges one variant: expected --variant with one of q4, q3$"):
        run(judged, serving(*TWO))
    failed, _ = run(replace(judged, variant="q3"), serving(*TWO))
    assert failed == 0
    manifest = read_run(options.out).manifest
    assert manifest.subject is not None
    assert manifest.subject.models.quantized.id == "q3"
    assert manifest.drawn is not None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp", "q 4", ".q4", "-q4", "q4\n", "ä", 101 * "q"])
def test_a_name_that_cannot_be_a_folder_is_refused(options: BenchOptions, name: str) -> None:
    fake = serving("q4", name)
    with pytest.raises(BadReply, match=r"the server has a variant named .*, expected letters, digits") as raised:
        run(options, fake)
    assert repr(name) in str(raised.value)
    assert not options.out.exists()


@pytest.mark.parametrize("names", [["q4", "q4"], ["q4", "base"], []])
def test_models_that_are_no_base_with_variants_are_refused(options: BenchOptions, names: list[str]) -> None:
    with pytest.raises(BadReply, match=r"expected 'base' and one quantized variant or more, .*, got \['base'"):
        run(options, serving(*names))


def test_a_journal_has_every_variant_and_resumes_to_the_same_files(mixed: BenchOptions) -> None:
    whole = replace(mixed, out=mixed.out.with_name("whole"))
    run(whole, serving(*TWO))
    journal = stopped(mixed, items=20, variants=TWO)
    assert files(mixed.out) == ["journal.jsonl"]
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    scored = [line["scores"] for line in lines if "scores" in line and line["scores"]["q4"]["error"] is None]
    assert len(scored) == 20
    assert all(list(scores) == ["q4", "q3"] for scores in scored)
    windows = [scores for scores in scored if scores["q4"]["tokens"]]
    assert windows
    assert all(scores["q4"]["tokens"]["kl"] != scores["q3"]["tokens"]["kl"] for scores in windows)
    fake = serving(*TWO)
    _, text = run(replace(mixed, resume=True), fake)
    assert len(fake.bodies("/compare")) == 46 - 20
    assert "46 items, 20 of them done before" in text
    assert files(mixed.out) == files(whole.out)
    for variant in TWO:
        assert contents(mixed.out / variant) == contents(whole.out / variant)


OTHERS = [
    pytest.param(("q4",), r"models\.q3 is missing$", id="fewer"),
    pytest.param(THREE, r"models\.q2\.5-g64 is new$", id="more"),
    pytest.param(("q4", "q8"), r"models\.q3 is missing; models\.q8 is new$", id="renamed"),
]


@pytest.mark.parametrize(("variants", "message"), OTHERS)
@pytest.mark.parametrize("complete", [False, True])
def test_other_variants_are_not_resumed(
    options: BenchOptions, variants: Sequence[str], message: str, complete: bool
) -> None:
    if complete:
        run(options, serving(*TWO))
    else:
        stopped(options, variants=TWO)
    before = {name: (options.out / name).read_bytes() for name in files(options.out)}
    fake = serving(*variants)
    with pytest.raises(RunError, match=f"cannot be resumed: {message}"):
        run(replace(options, resume=True), fake)
    assert fake.bodies("/compare") == []
    assert {name: (options.out / name).read_bytes() for name in files(options.out)} == before


@pytest.mark.parametrize("complete", [False, True])
def test_a_variant_that_has_changed_is_not_resumed(options: BenchOptions, complete: bool) -> None:
    changed = models(TWO)
    changed[2]["digest"] = "other"

    def listed(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/v1/models":
            return None
        body = json.loads(serving(*TWO).answer(request).content)
        return httpx.Response(200, json=body | {"data": changed})

    if complete:
        run(options, serving(*TWO))
    else:
        stopped(options, variants=TWO)
    with pytest.raises(RunError, match=r'cannot be resumed: models\.q3\.digest was "digest of q3" and is "other"$'):
        run(replace(options, resume=True), FakeServer(listed, TWO))


def test_the_run_of_one_variant_is_not_resumed_as_those_of_several(options: BenchOptions) -> None:
    run(replace(options, variant="q4"), serving(*TWO))
    with pytest.raises(RunError, match=r"run cannot be resumed: models\.q3 is new$"):
        run(replace(options, resume=True), serving(*TWO))


def test_a_journal_whose_lines_lack_a_variant_is_not_resumed(options: BenchOptions) -> None:
    journal = stopped(options, variants=TWO)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    del lines[3]["scores"]["q3"]
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(RunError, match="another version of qconf wrote its journal"):
        run(replace(options, resume=True), serving(*TWO))


def test_complete_runs_are_shown_and_left(options: BenchOptions) -> None:
    _, first = run(options, serving(*TWO))
    fake = serving(*TWO)
    failed, text = run(replace(options, resume=True), fake)
    assert failed == 0
    assert fake.bodies("/compare") == []
    assert f"The runs {options.out / 'q3'}, {options.out / 'q4'} are complete: nothing is left to do" in text
    of_q3 = first[first.index("\nq3\n") : first.index("43 items in")]
    assert of_q3.strip() in text


def test_runs_that_were_not_all_written_are_written_again(options: BenchOptions) -> None:
    """The journal is deleted after the last of them."""
    options.out.mkdir()
    (options.out / "q3").write_text("in the way")
    again = replace(options, resume=True)
    with pytest.raises(RunError, match=r"cannot write the run to .*q3"):
        run(again, serving(*TWO))
    (options.out / "q3").unlink()
    fake = serving(*TWO)
    run(again, fake)
    assert fake.bodies("/compare") == []
    assert [read_run(options.out / variant).manifest.counts.ok for variant in TWO] == [43, 43]
    assert not (options.out / "journal.jsonl").exists()


def test_an_item_fails_under_all_variants(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        return error(400, "'prompt' is too long", "prompt") if b"Is 7 even?" in request.content else None

    failed, text = run(options, FakeServer(hook, TWO))
    assert failed == 1
    assert " ".join(text.split()).count("1 of 43 items failed") == 1
    for variant in TWO:
        read = read_run(options.out / variant)
        assert read.manifest.counts.model_dump() == {"items": 43, "ok": 42, "failed": 1}
        assert [(item.doc_id, item.error) for item in read.items() if item.error] == [
            (7, "InvalidRequest: 'prompt' is too long")
        ]
    fake = serving(*TWO)
    assert run(replace(options, resume=True), fake)[0] == 0
    assert len(fake.bodies("/compare")) == 1


def test_a_number_of_the_second_variant_that_is_none_fails_the_item(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if b"coal" not in request.content:
            return None
        text = serving(*TWO).answer(request).text
        value = json.dumps(json.loads(text)["variants"]["q3"]["continuations"][1]["quantized"]["logprob"])
        return httpx.Response(200, text=text.replace(value, "NaN"))

    failed, _ = run(options, FakeServer(hook, TWO))
    assert failed == 1
    (bad,) = [item.error for item in read_run(options.out / "q4").items() if item.error]
    assert bad == "BadReply: continuation 1: its log-probability under 'q3' is not finite"


def test_a_second_variant_that_changes_or_goes_stops_the_replay(options: BenchOptions) -> None:
    def changed(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare":
            return None
        body = json.loads(serving(*TWO).answer(request).content)
        body["variants"]["q3"]["models"]["quantized"]["digest"] = "other"
        return httpx.Response(200, json=body)

    def gone(request: httpx.Request) -> httpx.Response | None:
        return serving("q4").answer(request) if request.url.path == "/compare" else None

    with pytest.raises(Stopped, match="another pair is being served now: fake/base and fake/q3, or other files"):
        run(options, FakeServer(changed, TWO))
    with pytest.raises(Stopped, match="the variant 'q3' is not served any more"):
        run(replace(options, resume=True), FakeServer(gone, TWO))
