"""lm-eval's sample files: export a run as two files per task, or import two files made elsewhere as a run."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from client.bench.display.scoreboard import chosen
from client.bench.items import distinct, hash_text
from qconf.run.columns import ItemResult, Kind
from qconf.run.folder import SCHEMA_VERSION, Counts, Import, Manifest, Run, RunError, check_target, write_run
from qconf.wire import problem

MODELS = ("base", "quantized")
PREFIX = "samples_"
MALFORMED = (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
"""What reading a sample raises that is not one of lm-eval's."""
_ROW = TypeAdapter(ItemResult)


def export_samples(run: Run, out: Path) -> list[Path]:
    """Write ``OUT/base/samples_TASK_TIME.jsonl`` and its twin for each task; items that failed, and tasks whose answers
    are generated, are left out.

    Log-likelihoods are as lm-eval's models return them, so both "resps" and "filtered_resps" hold them.
    """
    check_target(out)
    time = run.manifest.created.partition("+")[0].replace(":", "-")
    tasks: dict[str, list[ItemResult]] = {}
    for row in run.items():
        if row.error is None and row.doc is not None and row.kind != "generate_until":
            tasks.setdefault(row.task, []).append(row)
    if not tasks:
        raise RunError(f"{run.path} has no items of tasks to export, which score by log-likelihood")
    written = []
    for model in MODELS:
        for task, rows in tasks.items():
            path = out / model / f"{PREFIX}{task}_{time}.jsonl"
            lines = (json.dumps(sample, ensure_ascii=False) for row in rows for sample in _samples(row, model))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            except OSError as exc:
                raise RunError(f"cannot write {path}: {exc.strerror}") from exc
            written.append(path)
    return written


def _samples(row: ItemResult, model: str) -> Iterator[dict[str, Any]]:
    """Yield a sample for each of lm-eval's filters."""
    rolling = row.kind == "loglikelihood_rolling"
    arguments = [[row.contexts[at], choice] for at, choice in zip(row.choice_context, row.choices, strict=True)]
    logprobs = row.base_logprob if model == "base" else row.quantized_logprob
    greedy = row.base_is_greedy if model == "base" else row.quantized_is_greedy
    answers = [[str(logprob), str(is_greedy)] for logprob, is_greedy in zip(logprobs, greedy, strict=True)]
    for choice, logprob in zip(
        row.choices, row.base_unconditional if model == "base" else row.quantized_unconditional, strict=False
    ):
        arguments.append(["", choice])
        answers.append([str(logprob), str(None)])
    if rolling:
        arguments, answers = [[row.choices[0]]], [[str(logprobs[0])]]
    metrics = json.loads((row.base_metrics if model == "base" else row.quantized_metrics) or '{"none": {}}')
    for key, values in metrics.items():
        yield {
            "doc_id": row.doc_id,
            "doc": json.loads(row.doc or "null"),
            "target": row.target,
            "arguments": {
                f"gen_args_{i}": {f"arg_{j}": text for j, text in enumerate(each)} for i, each in enumerate(arguments)
            },
            "resps": [answer if rolling else [answer] for answer in answers],
            "filtered_resps": [answer[0] for answer in answers] if rolling else answers,
            "filter": key,
            "metrics": list(values),
            "doc_hash": row.doc_hash,
            "prompt_hash": row.prompt_hash,
            "target_hash": hash_text(str(row.target)),
        } | values


def import_samples(base: Path, quantized: Path, out: Path) -> Manifest:
    """Make a run from lm-eval's samples of both models: two files, or two folders with a file for each task.

    Divergences and token counts are unknown, so null and empty. White space at the start of a choice counts as the
    delimiter, which lengths leave out.
    """
    check_target(out)
    files = _files(base), _files(quantized)
    if differing := sorted(set(files[0]) ^ set(files[1])):
        raise RunError(f"samples of '{differing[0]}' are in only one of {base} and {quantized}")
    rows = [row for task, path in files[0].items() for row in _rows(task, path, files[1][task])]
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    manifest = Manifest(
        created=now,
        imported=Import(base=[str(path) for path in files[0].values()], quantized=[str(p) for p in files[1].values()]),
        counts=Counts(items=len(rows), ok=len(rows), failed=0),
        packages={"qconf": version("qconf")},
    )
    write_run(out, manifest, rows, {"schema_version": SCHEMA_VERSION, "tasks": {}, "groups": {}})
    return manifest


def _files(path: Path) -> dict[str, Path]:
    """Return the sample files by task."""
    found = [path] if path.is_file() else sorted(path.rglob(f"{PREFIX}*.jsonl"))
    if not found:
        raise RunError(f"{path} is neither a sample file of lm-eval nor a folder with any ({PREFIX}TASK_TIME.jsonl)")
    tasks: dict[str, Path] = {}
    for file in found:
        task = file.stem.removeprefix(PREFIX).rpartition("_")[0] or file.stem
        if task in tasks:
            raise RunError(f"{path} has several sample files of '{task}': {tasks[task].name} and {file.name}")
        tasks[task] = file
    return tasks


def _rows(task: str, base: Path, quantized: Path) -> list[ItemResult]:
    ours, theirs = _documents(base), _documents(quantized)
    if differing := sorted(set(ours) ^ set(theirs)):
        raise RunError(f"document {differing[0]} is in only one of {base} and {quantized}")
    return [_row(task, doc_id, ours[doc_id], theirs[doc_id], base, quantized) for doc_id in sorted(ours)]


def _documents(path: Path) -> dict[int, list[dict[str, Any]]]:
    """Return the samples by document, one for each filter."""
    documents: dict[int, list[dict[str, Any]]] = {}
    try:
        # As text, lines would also end at characters that JSON may have within a text, such as U+2028.
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise RunError(f"cannot read {path}: {exc.strerror}") from exc
    for number, line in enumerate(lines, 1):
        try:
            sample = from_json(line)
            documents.setdefault(_doc_id(sample), []).append(sample)
        except MALFORMED as exc:
            raise RunError(f"{path}, line {number} is not a sample of lm-eval: {exc!r}") from exc
    return documents


def _doc_id(sample: Mapping[str, Any]) -> int:
    value = sample["doc_id"]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"doc_id is {value!r}, expected an integer from 0 to 2**63 - 1")
    return value


def _row(
    task: str,
    doc_id: int,
    base: Sequence[Mapping[str, Any]],
    quantized: Sequence[Mapping[str, Any]],
    base_path: Path,
    quantized_path: Path,
) -> ItemResult:
    first, second = base[0], quantized[0]
    for field in ("doc_hash", "prompt_hash", "arguments"):
        if first.get(field) != second.get(field):
            raise RunError(f"document {doc_id} of '{task}' differs between {base_path} and {quantized_path}: {field}")
    try:
        return _ROW.validate_python(_columns(task, doc_id, base, quantized))
    except MALFORMED as exc:
        reason = problem(exc.errors()).message if isinstance(exc, ValidationError) else repr(exc)
        place = f"document {doc_id} of '{task}' in {base_path}"
        raise RunError(f"{place} is not a log-likelihood sample: {reason}") from exc


def _columns(
    task: str, doc_id: int, base: Sequence[Mapping[str, Any]], quantized: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    first, second = base[0], quantized[0]
    arguments = [tuple(each.values()) for each in first["arguments"].values()]
    answers = {"base": _answers(first), "quantized": _answers(second)}
    kind = _kind(arguments, answers)
    count = len(arguments)
    unconditional = 0
    if kind == "multiple_choice" and "acc_mutual_info" in first["metrics"]:
        count = unconditional = len(arguments) // 2
    if kind == "loglikelihood_rolling":
        arguments = [("", arguments[0][0])]
    contexts, choice_context = distinct(context for context, _ in arguments[:count])
    choices = [choice for _, choice in arguments[:count]]
    bare = [choice.lstrip() or choice for choice in choices]
    label = _label(first, second, bare, answers, count) if kind == "multiple_choice" else None
    return {
        "task": task,
        "doc_id": doc_id,
        "kind": kind,
        "doc_hash": first["doc_hash"],
        "prompt_hash": first["prompt_hash"],
        "label": label,
        "n_choices": count,
        "contexts": contexts,
        "choices": choices,
        "choice_context": choice_context,
        "choice_chars": [len(choice) for choice in bare],
        "choice_bytes": [len(choice.encode()) for choice in bare],
        "base_logprob": [logprob for logprob, _ in answers["base"][:count]],
        "quantized_logprob": [logprob for logprob, _ in answers["quantized"][:count]],
        "base_is_greedy": [greedy for _, greedy in answers["base"][:count]],
        "quantized_is_greedy": [greedy for _, greedy in answers["quantized"][:count]],
        "base_unconditional": [logprob for logprob, _ in answers["base"][count : count + unconditional]],
        "quantized_unconditional": [logprob for logprob, _ in answers["quantized"][count : count + unconditional]],
        "doc": json.dumps(first["doc"], ensure_ascii=False),
        "target": first["target"],
        "base_metrics": _metrics(base),
        "quantized_metrics": _metrics(quantized),
    }


def _answers(sample: Mapping[str, Any]) -> list[tuple[float, bool]]:
    """Return each request's log-likelihood and whether it was greedy: False for whole texts, where it is unknown."""
    answers = []
    for (answer,) in sample["resps"]:
        logprob, greedy = (answer, "False") if isinstance(answer, str | float) else answer
        if not math.isfinite(float(logprob)):
            raise ValueError(f"log-likelihood {logprob}")
        answers.append((float(logprob), str(greedy) == "True"))
    return answers


def _kind(arguments: Sequence[tuple[str, ...]], answers: Mapping[str, Sequence[object]]) -> Kind:
    for each in answers.values():
        if len(each) != len(arguments):
            raise ValueError(f"{len(each)} answers to {len(arguments)} requests")
    if len(arguments) > 1:
        return "multiple_choice"
    return "loglikelihood_rolling" if len(arguments[0]) == 1 else "loglikelihood"


def _label(
    base: Mapping[str, Any],
    quantized: Mapping[str, Any],
    choices: Sequence[str],
    answers: Mapping[str, Sequence[tuple[float, bool]]],
    count: int,
) -> int | None:
    """Return the index of the true choice, which the target has as index or text: whichever agrees with acc."""
    target = str(base["target"])
    candidates = [choices.index(target.strip())] if target.strip() in choices else []
    if target.isdigit() and int(target) < count:
        candidates.append(int(target))
    right = {
        chosen([logprob for logprob, _ in answers[model][:count]]): bool(sample["acc"])
        for model, sample in (("base", base), ("quantized", quantized))
        if "acc" in sample
    }
    for candidate in candidates:
        if all((choice == candidate) == is_right for choice, is_right in right.items()):
            return candidate
    return None


def _metrics(samples: Sequence[Mapping[str, Any]]) -> str | None:
    by_filter = {sample["filter"]: {name: sample[name] for name in sample["metrics"]} for sample in samples}
    return json.dumps(by_filter, ensure_ascii=False) if any(by_filter.values()) else None
