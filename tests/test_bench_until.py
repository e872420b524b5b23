"""Replays that stop when their rules are settled, from end to end against a stand-in for the server."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from client.bench.display.live import LiveDisplay
from client.bench.display.scoreboard import Scoreboard
from client.bench.evaluation import part_of
from client.bench.items import Item, TaskError
from client.bench.outcome import blank
from client.bench.pace import Pace
from client.bench.session import RuleFailed, Stopped, run_bench
from client.bench.sources.data import load_data
from client.bench.sources.lm_eval_tasks import LoadedTasks
from client.bench.sources.load import BenchOptions
from client.bench.standing import Outcome, Standing, standings_of
from client.bench.until import Until, drawn_order
from eval.analysis.run import analyse_run
from eval.report.page import render_markdown
from qconf.rules import Rule
from qconf.run.columns import ItemResult
from qconf.run.folder import RunError, read_run
from tests.fake_server import FakeServer, error, noise
from tests.test_bench_command import bench, listening

ITEMS = 400
Answer = Callable[[int], bool]


def write_items(folder: Path, name: str = "mine", count: int = ITEMS, labelled: bool = True) -> Path:
    """Write items of two choices, numbered in their prompts; the first choice is right."""
    path = folder / f"{name}.jsonl"
    label = {"label": 0} if labelled else {}
    lines = [{"prompt": f"{name} {n}:", "choices": ["right", "wrong"], **label} for n in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_rules(folder: Path, text: str) -> Path:
    path = folder / "gate.toml"
    path.write_text("".join(f"[[rule]]\n{rule.strip()}\n" for rule in text.split(";")))
    return path


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    return BenchOptions(
        urls=["http://fake"],
        tasks=[],
        data=[write_items(tmp_path)],
        corpora=[],
        include_path=None,
        num_fewshot=None,
        limit=None,
        delimiter=" ",
        window=None,
        stride=None,
        add_special_tokens=True,
        concurrency=1,
        retries=0,
        timeout=10.0,
        out=tmp_path / "run",
        resume=False,
        quiet=False,
        until=write_rules(tmp_path, 'statistic = "flips"\nat_most = 0.05'),
    )


def answering(flips: Answer, fails: Answer = lambda _: False, until: int = 10**9) -> FakeServer:
    """Return a server whose quantized model flips some items; others fail, and it is gone after so many answers."""
    left = until

    def hook(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        left -= request.url.path == "/compare"
        if left < 0:
            raise httpx.ConnectError("refused")
        if request.url.path != "/compare":
            return None
        number = number_of(json.loads(request.content))
        if fails(number):
            return error(400, "'prompt' is too long", "prompt")
        body = FakeServer().answer(request).json()
        for model, logprobs in (("base", (-1.0, -3.0)), ("quantized", (-3.0, -1.0) if flips(number) else (-1.1, -3.0))):
            for continuation, logprob in zip(body["continuations"], logprobs, strict=True):
                continuation[model]["logprob"] = logprob
        return httpx.Response(200, json=body)

    return FakeServer(hook)


def number_of(body: Any) -> int:
    return int(body["prompt"].split()[1].rstrip(":"))


class Late(httpx.MockTransport):
    """Replies come in another order than the requests were sent."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(noise(request.content.decode()) / 100)
        return await super().handle_async_request(request)


def run(options: BenchOptions, fake: FakeServer, late: bool = False) -> tuple[int, str]:
    output = io.StringIO()
    transport = Late(fake.answer) if late else fake.transport
    failed = run_bench(options, Console(file=output, width=160), transport)
    return failed, output.getvalue()


def rules_of(folder: Path) -> list[Standing]:
    return standings_of(read_run(folder).results)


def documents(items: Iterable[Item | ItemResult]) -> list[int]:
    return [item.doc_id for item in items]


def test_a_replay_ends_when_its_rule_is_settled(options: BenchOptions) -> None:
    fake = answering(lambda _: False)
    failed, text = run(options, fake)
    assert failed == 0
    read = read_run(options.out)
    (rule,) = rules_of(options.out)
    assert (rule.name, rule.outcome, rule.at_most, rule.method) == ("flips of overall", "pass", 0.05, "betting")
    assert 20 < rule.used < ITEMS / 3
    assert (rule.of, rule.failed, rule.estimate, rule.low) == (ITEMS, 0, 0.0, 0.0)
    assert 0.03 < (rule.high or 0.0) <= 0.05
    assert len(fake.bodies("/compare")) == rule.used
    # Neither the shortest items nor the first of the file.
    first = drawn_order(load_data(options.data[0], delimiter=" ", limit=None).items, seed=0)[: rule.used]
    assert [number_of(body) for body in fake.bodies("/compare")] == documents(first)
    assert documents(read.items()) == sorted(documents(first))
    assert read.manifest.counts.model_dump() == {"items": rule.used, "ok": rule.used, "failed": 0}
    assert read.manifest.drawn is not None
    assert read.manifest.drawn.model_dump() == {"items": rule.used, "of": ITEMS}
    subject = read.manifest.subject
    assert subject is not None
    assert subject.tasks[0].items == ITEMS
    assert subject.settings.until is not None
    assert subject.settings.until.model_dump() == {"seed": 0, "rules": [{"statistic": "flips", "at_most": 0.05}]}
    assert not (options.out / "journal.jsonl").exists()
    assert f"{rule.used}/{ITEMS} items, flips of overall: pass" in text
    assert f"Only {rule.used} of {ITEMS} items were drawn" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("flips of overall"))
    assert row[3:] == ["≤", "0.05", "pass", "0.0000", "[0.0000,", f"{rule.high:.4f}]", str(rule.used), "of", str(ITEMS)]
    assert f"{rule.used} items in " in text
    arguments = [str(options.out), "--config", str(options.until), "--resamples", "100"]
    judged = subprocess.run(
        [sys.executable, "-m", "eval", "gate", *arguments], capture_output=True, text=True, check=False
    )
    stopped = f"The replay stopped when its rules were settled, after {rule.used} of {ITEMS} items"
    assert judged.stderr.startswith(f"note: {options.out}: {stopped}")
    assert "flips of overall" in judged.stdout
    found = read_run(options.out)
    assert f"\n- {stopped}" in render_markdown([(found, analyse_run(options.out, resamples=100))])


def test_when_replies_come_changes_nothing(options: BenchOptions) -> None:
    def flips(number: int) -> bool:
        return number % 40 == 0

    run(options, answering(flips))
    many = replace(options, concurrency=32, out=options.out.with_name("many"))
    fake = answering(flips)
    run(many, fake, late=True)
    numbers = [number_of(body) for body in fake.bodies("/compare")]
    assert sorted(numbers) != documents(read_run(many.out).items())  # some were sent that nobody needed then
    assert (many.out / "items.parquet").read_bytes() == (options.out / "items.parquet").read_bytes()
    assert (many.out / "results.json").read_bytes() == (options.out / "results.json").read_bytes()
    assert len(numbers) <= read_run(many.out).manifest.counts.items + 3 * 32


def test_another_seed_draws_other_items(options: BenchOptions) -> None:
    other = replace(options, seed=1, out=options.out.with_name("other"))
    for each in (options, other):
        run(each, answering(lambda _: False))
    one, two = (documents(read_run(each.out).items()) for each in (options, other))
    assert len(one) == len(two)
    assert len(set(one) & set(two)) < len(one) / 2


def test_a_rule_that_fails(options: BenchOptions) -> None:
    with pytest.raises(RuleFailed, match=r"^failed: flips of overall$"):
        run(options, answering(lambda number: number % 3 == 0))
    (rule,) = rules_of(options.out)
    assert rule.outcome == "fail"
    assert rule.used < ITEMS / 4
    assert rule.low is not None
    assert rule.low >= 0.05
    with pytest.raises(RuleFailed, match=r"^failed: flips of overall$"):
        run(replace(options, resume=True), answering(lambda _: False))


def test_all_items_are_asked_where_it_is_close_and_then_it_is_certain(options: BenchOptions) -> None:
    failed, text = run(options, answering(lambda number: number % 20 == 0))
    assert failed == 0
    (rule,) = rules_of(options.out)
    assert rule.outcome == "pass"
    assert rule.used == ITEMS
    assert rule.estimate == rule.low == rule.high == 0.05
    assert "items were drawn" not in text
    with pytest.raises(RuleFailed):
        run(
            replace(options, out=options.out.with_name("more")),
            answering(lambda number: number % 20 == 0 or number == 1),
        )


def test_both_limits_around_0_make_a_margin(options: BenchOptions, tmp_path: Path) -> None:
    rules = write_rules(
        tmp_path,
        'statistic = "accuracy"\nat_least = -0.05\nat_most = 0.05;'
        'statistic = "flips"\nat_least = 0.0\nat_most = 0.1;statistic = "kl"\nat_most = 0.5',
    )
    # All numbers of KL are alike but where it flips: the asymptotic sequence needs all items.
    run(replace(options, until=rules), answering(lambda number: number % 40 == 0))
    margin, both, kl = rules_of(options.out)
    assert (margin.name, margin.outcome) == ("delta accuracy of overall", "equivalent")
    assert (both.outcome, kl.outcome, kl.method) == ("pass", "pass", "asymptotic")
    assert margin.used < ITEMS
    assert kl.used == ITEMS
    assert kl.low == kl.high == pytest.approx(kl.estimate)


def test_only_what_an_open_rule_needs_is_asked(options: BenchOptions, tmp_path: Path) -> None:
    rules = write_rules(tmp_path, 'statistic = "flips"\ntask = "each"\nat_most = 0.1')
    data = [write_items(tmp_path, "easy"), write_items(tmp_path, "close")]
    fake = FakeServer(
        lambda request: answering(
            lambda number: b"close" in request.content and (number % 11 == 0),
        ).answer(request)
    )
    run(replace(options, data=data, until=rules), fake)
    easy, close = rules_of(options.out)
    assert (easy.name, easy.outcome, close.name, close.outcome) == (
        "flips of easy",
        "pass",
        "flips of close",
        "pass",
    )
    asked = [body["prompt"].split()[0] for body in fake.bodies("/compare")]
    assert (asked.count("easy"), asked.count("close")) == (easy.used, close.used)
    assert easy.used < ITEMS / 5 < close.used
    assert set(asked[-50:]) == {"close"}


def test_a_run_that_stopped_goes_on_to_the_same_files(options: BenchOptions) -> None:
    def flips(number: int) -> bool:
        return number % 40 == 0

    whole = replace(options, out=options.out.with_name("whole"))
    run(whole, answering(flips))
    with pytest.raises(Stopped, match=r"50 of 400 items are kept .* --resume to continue"):
        run(options, answering(flips, until=50))
    again = replace(options, resume=True, concurrency=8)
    for changed, message in (
        ({"seed": 1}, r"settings\.until\.seed was 0 and is 1"),
        ({"until": None}, r"settings\.until was .* and is null"),
        ({"until": write_rules(options.out.parent, 'statistic = "flips"\nat_most = 0.06')}, "at_most was 0.05 and is"),
    ):
        with pytest.raises(RunError, match=message):
            run(replace(again, **changed), answering(flips))
    write_rules(options.out.parent, 'statistic = "flips"\nat_most = 0.05')
    fake = answering(flips)
    run(again, fake, late=True)
    asked = len(fake.bodies("/compare"))
    for name in ("items.parquet", "results.json"):
        assert (options.out / name).read_bytes() == (whole.out / name).read_bytes()
    used = read_run(whole.out).manifest.counts.items
    assert used - 50 <= asked <= used - 50 + 3 * 8
    _, text = run(again, fake)
    assert len(fake.bodies("/compare")) == asked
    assert "flips of overall" in text
    assert "is complete: nothing is left to do" in text


def test_items_that_fail_count_as_the_worst_until_they_are_answered(options: BenchOptions) -> None:
    """One in 16 fails: with those at their worst, more than 5 % might flip, so that all is asked and nothing known."""
    failed, text = run(options, answering(lambda _: False, fails=lambda number: number % 16 == 0))
    assert failed == 25
    (rule,) = rules_of(options.out)
    assert (rule.outcome, rule.used, rule.failed, rule.estimate) == ("inconclusive", ITEMS, 25, 0.0)
    assert (rule.low, rule.high) == (0.0, 25 / ITEMS)
    assert "400 of 400, 25 failed" in text
    assert (options.out / "journal.jsonl").exists()
    fake = answering(lambda _: False)
    failed, _ = run(replace(options, resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) < 25
    (rule,) = rules_of(options.out)
    assert (rule.outcome, rule.failed) == ("pass", 0)
    assert rule.used < ITEMS / 3


def test_a_few_failed_items_only_cost_time(options: BenchOptions) -> None:
    run(options, answering(lambda _: False))
    with_failed = replace(options, out=options.out.with_name("failed"))
    order = drawn_order(load_data(options.data[0], delimiter=" ", limit=None).items, seed=0)
    failed, _ = run(with_failed, answering(lambda _: False, fails=lambda number: number == order[3].doc_id))
    assert failed == 1
    (rule,), (other,) = rules_of(options.out), rules_of(with_failed.out)
    assert (other.outcome, other.failed) == ("pass", 1)
    assert rule.used < other.used < ITEMS


def test_a_divergence_without_bounds_is_inconclusive_once_an_item_fails(options: BenchOptions, tmp_path: Path) -> None:
    rules = write_rules(tmp_path, 'statistic = "kl"\nat_most = 0.5')
    failed, _ = run(replace(options, until=rules), answering(lambda _: False, fails=lambda number: number == 7))
    assert failed == 1
    (rule,) = rules_of(options.out)
    assert (rule.outcome, rule.low, rule.high) == ("inconclusive", 0.0, None)


REFUSED: list[Any] = [
    pytest.param('statistic = "ece"\nat_most = 0.1', "gate.toml: 'ece' cannot be judged item by item", id="ece"),
    pytest.param('statistic = "flips"', "the rule on 'flips' has no limit", id="no limit"),
    pytest.param(
        'statistic = "flips"\ntask = "yours"\nat_most = 0.1', "'yours', expected one of each, mine, overall", id="task"
    ),
]


@pytest.mark.parametrize(("rules", "message"), REFUSED)
def test_rules_that_cannot_be_judged_are_refused_before_any_item_is_sent(
    options: BenchOptions, tmp_path: Path, rules: str, message: str
) -> None:
    fake = answering(lambda _: False)
    with pytest.raises(TaskError, match=message):
        run(replace(options, until=write_rules(tmp_path, rules)), fake)
    assert fake.bodies("/compare") == []
    assert not options.out.exists()


def test_tasks_that_no_rule_can_judge_are_refused(options: BenchOptions, tmp_path: Path) -> None:
    mine, other = options.data[0], write_items(tmp_path, "other", labelled=False)
    with pytest.raises(TaskError, match=r"'other' cannot be replayed .*: it has no multiple-choice items with a label"):
        run(replace(options, data=[mine, other]), answering(lambda _: False))
    rules = write_rules(tmp_path, 'statistic = "flips"\ntask = "mine"\nat_most = 0.1')
    with pytest.raises(TaskError, match=r"'other' cannot be replayed .*: no rule applies to it"):
        run(replace(options, data=[mine, write_items(tmp_path, "other")], until=rules), answering(lambda _: False))


def test_metrics_of_groups_are_those_of_whole_groups(options: BenchOptions) -> None:
    task = load_data(options.data[0], delimiter=" ", limit=3)
    loaded = LoadedTasks([task], {"group": object()})
    part = part_of(loaded, {("mine", 0), ("mine", 2)})
    assert (documents(part.tasks[0].items), part.groups) == ([0, 2], {})
    assert part_of(loaded, {("mine", number) for number in range(3)}) == loaded


def test_the_order_is_random_whatever_the_seed(tmp_path: Path) -> None:
    items = load_data(write_items(tmp_path, count=50), delimiter=" ", limit=None).items
    places = [documents(drawn_order(items, seed)).index(7) for seed in range(2000)]
    assert stats.chisquare([places.count(place) for place in range(50)]).pvalue > 0.001
    assert documents(drawn_order(items, 0))[:5] == documents(drawn_order(items[::-1], 0))[:5]


def test_over_many_seeds_wrong_verdicts_are_as_rare_as_they_are_said_to_be(tmp_path: Path) -> None:
    """7 flips of 100, all at the file's end, and a limit that 6 would keep."""
    items = load_data(write_items(tmp_path, count=100), delimiter=" ", limit=None).items
    rows = {
        item.doc_id: replace(
            blank(item),
            base_logprob=[-1.0, -3.0],
            quantized_logprob=[-3.0, -1.0] if item.doc_id >= 93 else [-1.0, -3.0],
        )
        for item in items
    }
    wrong = 0
    for seed in range(200):
        until = Until([Rule(statistic="flips", at_most=0.06)], items, seed)
        for item in until.queue():
            until.add(rows[item.doc_id])
        (standing,) = until.standings()
        wrong += standing.outcome == "pass"
        assert standing.outcome in ("pass", "fail")
    assert wrong <= stats.binom.ppf(0.999, 200, 0.025)


def test_the_screen_shows_rules_as_they_settle() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    scoreboard = Scoreboard(["mine"])
    rules: list[tuple[str, Outcome]] = [("flips of overall", "pass"), ("kl of mine", "open")]
    console.print(LiveDisplay(console, scoreboard, {"mine": 9}, Pace(1.0), lambda: rules).render())
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "flips of overall: pass" in output
    assert "kl of mine: open" in output


@pytest.mark.parametrize(
    ("flips", "fails", "code", "stderr"),
    [(0, 0, 0, ""), (0, 16, 1, ""), (3, 16, 3, "failed: flips of overall\n")],
)
def test_exit_codes_of_the_command(options: BenchOptions, flips: int, fails: int, code: int, stderr: str) -> None:
    fake = answering(lambda n: bool(flips) and n % flips == 0, lambda n: bool(fails) and n % fails == 1)
    with listening(fake) as url:
        done = bench(
            "--url", url, "--data", str(options.data[0]), "--until", str(options.until), "--out", str(options.out)
        )
    assert (done.returncode, done.stderr) == (code, stderr)
    assert "flips of overall" in done.stdout


def test_wrong_usage_of_the_command(options: BenchOptions) -> None:
    arguments = ["--url", "http://127.0.0.1:9", "--data", str(options.data[0])]
    done = bench(*arguments, "--seed", "4")
    assert (done.returncode, "--seed is 4: only the order of --until has a seed" in done.stderr) == (2, True)
    done = bench(*arguments, "--until", "nowhere.toml")
    assert (done.returncode, done.stderr) == (
        2,
        "error: --until nowhere.toml: cannot read nowhere.toml: No such file or directory\n",
    )
