"""lm-eval's sample files: out of a run, into a run, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from client.results.samples import export_samples, import_samples
from qconf.run.columns import ItemResult
from qconf.run.folder import RunError, read_run, write_run
from tests.test_results import FAILED, RESULT, SCORED, manifest

ANSWERED = dataclasses.replace(
    SCORED,
    choice_bytes=[3, 2],
    doc='{"question": "Is it?"}',
    target="1",
    base_metrics='{"none": {"acc": 1.0, "acc_norm": 1.0}}',
    quantized_metrics='{"none": {"acc": 1.0, "acc_norm": 0.0}}',
)
LAST = dataclasses.replace(
    ANSWERED,
    task="lambada",
    kind="loglikelihood",
    label=None,
    n_choices=1,
    choices=[" word"],
    choice_context=[0],
    base_logprob=[-1.5],
    quantized_logprob=[-2.5],
    base_is_greedy=[True],
    quantized_is_greedy=[False],
    choice_chars=[4],
    choice_bytes=[4],
    base_metrics='{"none": {"perplexity": -1.5, "acc": 1}}',
    quantized_metrics='{"none": {"perplexity": -2.5, "acc": 0}}',
)
WHOLE = dataclasses.replace(
    LAST,
    task="wikitext",
    kind="loglikelihood_rolling",
    contexts=[""],
    choices=["a whole page"],
    choice_chars=[12],
    choice_bytes=[12],
    base_is_greedy=[False],
    base_metrics='{"none": {"word_perplexity": [-1.5, 3]}}',
    quantized_metrics='{"none": {"word_perplexity": [-2.5, 3]}}',
)
MUTUAL = dataclasses.replace(
    ANSWERED,
    task="mutual",
    base_unconditional=[-3.0, -4.0],
    quantized_unconditional=[-3.5, -4.5],
    base_metrics='{"none": {"acc": 1.0, "acc_mutual_info": 1.0}}',
    quantized_metrics='{"none": {"acc": 1.0, "acc_mutual_info": 1.0}}',
)
# What sample files do not say.
UNKNOWN: dict[str, Any] = {
    "choice_tokens": [],
    "choice_mean_kl": [],
    "choice_max_kl": [],
    "mean_kl": None,
    "max_kl": None,
}


def exported(folder: Path, *rows: ItemResult) -> Path:
    write_run(folder / "run", manifest(), rows, RESULT)
    export_samples(read_run(folder / "run"), folder / "out")
    return folder / "out"


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("row", [ANSWERED, LAST, WHOLE, MUTUAL], ids=lambda row: row.task)
def test_a_run_comes_back_from_its_samples(tmp_path: Path, row: ItemResult) -> None:
    out = exported(tmp_path, row)
    import_samples(out / "base", out / "quantized", tmp_path / "again")
    again = read_run(tmp_path / "again")
    assert again.items() == [dataclasses.replace(row, **UNKNOWN)]
    assert again.manifest.subject is None
    assert again.manifest.imported is not None
    assert len(again.manifest.imported.base) == 1


def test_samples_look_like_lm_evals(tmp_path: Path) -> None:
    out = exported(tmp_path, ANSWERED, FAILED)
    assert [path.name for path in (out / "base").iterdir()] == ["samples_boolq_2025-03-01T12-00-00.000.jsonl"]
    (sample,) = samples(out / "quantized")
    assert sample == {
        "doc_id": 0,
        "doc": {"question": "Is it?"},
        "target": "1",
        "arguments": {
            "gen_args_0": {"arg_0": "Is it?", "arg_1": " yes"},
            "gen_args_1": {"arg_0": "Is it?", "arg_1": " no"},
        },
        "resps": [[["-1.25", "False"]], [["-0.5", "True"]]],
        "filtered_resps": [["-1.25", "False"], ["-0.5", "True"]],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "acc": 1.0,
        "acc_norm": 0.0,
        "doc_hash": "d0",
        "prompt_hash": "p0",
        "target_hash": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }


def test_whole_texts_have_a_single_argument(tmp_path: Path) -> None:
    (sample,) = samples(exported(tmp_path, WHOLE) / "base")
    assert sample["arguments"] == {"gen_args_0": {"arg_0": "a whole page"}}
    assert (sample["resps"], sample["filtered_resps"]) == ([["-1.5"]], ["-1.5"])


def test_a_target_that_is_a_text_and_an_index_is_what_agrees_with_acc(tmp_path: Path) -> None:
    """Choices "1" and "0", target "1": the index 1 or the first choice, depending on what lm-eval counted as right."""
    for accuracy, label in ((0.0, 0), (1.0, 1)):
        row = dataclasses.replace(
            ANSWERED,
            choices=[" 1", " 0"],
            base_metrics=json.dumps({"none": {"acc": accuracy}}),
            quantized_metrics=json.dumps({"none": {"acc": accuracy}}),
        )
        folder = tmp_path / str(label)
        out = exported(folder, row)
        import_samples(out / "base", out / "quantized", folder / "again")
        assert read_run(folder / "again").items()[0].label == label


def edited(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Write sample files of two models, of which the second was changed."""
    out = exported(folder, ANSWERED, dataclasses.replace(ANSWERED, doc_id=1))
    (base,), (quantized,) = ((out / model).glob("*.jsonl") for model in ("base", "quantized"))
    lines = [json.loads(line) | changes for line in quantized.read_text().splitlines()]
    quantized.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return base, quantized


REFUSED = [
    pytest.param({"doc_hash": "x"}, r"document 0 of 'boolq' differs between .*: doc_hash", id="document"),
    pytest.param({"prompt_hash": "x"}, r"differs between .*: prompt_hash", id="prompt"),
    pytest.param({"doc_id": 7}, r"document 0 is in only one of ", id="missing document"),
    pytest.param({"doc_id": None}, r"line 1 is not a sample of lm-eval: .*doc_id is None", id="id"),
    pytest.param({"resps": [[["nan", "False"]]] * 2}, r"is not a log-likelihood sample: ValueError\('log-li", id="nan"),
    pytest.param({"resps": [["some text"]] * 2}, r"is not a log-likelihood sample: ValueError", id="generated"),
    pytest.param({"resps": [[["-1", "False"]]] * 3}, r"'3 answers to 2 requests'", id="count"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_samples_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    base, quantized = edited(tmp_path, **changes)
    with pytest.raises(RunError, match=message):
        import_samples(base, quantized, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_folders_without_the_same_tasks_are_refused(tmp_path: Path) -> None:
    out = exported(tmp_path, ANSWERED, LAST)
    next((out / "quantized").glob("*lambada*")).unlink()
    with pytest.raises(RunError, match="samples of 'lambada' are in only one of"):
        import_samples(out / "base", out / "quantized", tmp_path / "again")
    with pytest.raises(RunError, match="is neither a sample file of lm-eval nor a folder with any"):
        import_samples(tmp_path / "nowhere", out / "quantized", tmp_path / "again")
    with pytest.raises(RunError, match=r"has several sample files of 'boolq'"):
        import_samples(out, out, tmp_path / "again")


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client.results", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command_goes_both_ways(tmp_path: Path) -> None:
    write_run(tmp_path / "run", manifest(), [ANSWERED], RESULT)
    out = command("export-lm-eval", tmp_path / "run", tmp_path / "out")
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.count("samples_boolq_") == 2
    back = command("import-lm-eval", tmp_path / "out" / "base", tmp_path / "out" / "quantized", tmp_path / "again")
    assert (back.returncode, back.stdout) == (0, f"1 items written to {tmp_path / 'again'}\n")
    again = command("export-lm-eval", tmp_path / "run", tmp_path / "out")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr


def test_nothing_to_export_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "run", manifest(), [FAILED], RESULT)
    with pytest.raises(RunError, match="has no items of tasks to export"):
        export_samples(read_run(tmp_path / "run"), tmp_path / "out")


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x1c"])
def test_a_document_may_have_characters_that_end_lines_elsewhere(tmp_path: Path, separator: str) -> None:
    row = dataclasses.replace(ANSWERED, contexts=[f"one{separator}two"], doc=json.dumps({"question": separator}))
    out = exported(tmp_path, row)
    import_samples(out / "base", out / "quantized", tmp_path / "again")
    (again,) = read_run(tmp_path / "again").items()
    assert again.contexts == [f"one{separator}two"]


@pytest.mark.parametrize("target", [1, ["1"], {"a": 1}])
def test_a_target_that_is_not_a_text_is_refused(tmp_path: Path, target: Any) -> None:
    (base, quantized) = edited(tmp_path)
    base.write_text("".join(json.dumps(each | {"target": target}) + "\n" for each in samples(base.parent)))
    with pytest.raises(RunError, match=r"is not a log-likelihood sample: 'target': input should be a valid string"):
        import_samples(base, quantized, tmp_path / "again")


def test_samples_that_cannot_be_written_are_an_error_of_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*/base/samples_a+_.*\.jsonl: File name too long"):
        exported(tmp_path, dataclasses.replace(ANSWERED, task="a" * 300))
