"""Items of a file of the user's own: JSON lines with prompt, choices and label."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.bench.items import Item, LoadedTask, TaskError, hash_text
from qconf.wire import MAX_CONTINUATIONS, problem

VERSION_DIGITS = 12


class Line(BaseModel):
    """One item of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    choices: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=MAX_CONTINUATIONS)]
    label: int | None = Field(default=None, ge=0)
    cluster: str | None = None


def load_data(path: Path, *, delimiter: str, limit: int | None = None) -> LoadedTask:
    """Return a task named after the file. ``delimiter`` joins prompt and choice, as lm-eval's target_delimiter.

    Its version is the beginning of the file's SHA-256.
    """
    content = read(path)
    lines = content.splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()][:limit]
    if not numbered:
        raise TaskError(f"{path} has no items: expected one JSON object per line")
    items = tuple(
        _item(path.stem, doc_id, line, _parse(path, number, line), delimiter)
        for doc_id, (number, line) in enumerate(numbered)
    )
    return LoadedTask(path.stem, version(content), 0, items)


def read(path: Path) -> bytes:
    """Return the content of a file that the user named."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise TaskError(f"cannot read {path}: {exc.strerror}") from exc


def version(content: bytes) -> str:
    """Return the version of a file: the beginning of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]


def _parse(path: Path, number: int, line: bytes) -> Line:
    try:
        parsed = Line.model_validate_json(line)
    except ValidationError as exc:
        errors = exc.errors()
        reason = errors[0]["msg"] if errors[0]["type"] == "json_invalid" else problem(errors).message
        raise TaskError(f"{path}, line {number}: {reason}") from exc
    if parsed.label is not None and parsed.label >= len(parsed.choices):
        raise TaskError(
            f"{path}, line {number}: 'label' is {parsed.label}, expected an index below {len(parsed.choices)}"
        )
    return parsed


def _item(task: str, doc_id: int, raw: bytes, line: Line, delimiter: str) -> Item:
    document = raw.decode().strip()
    return Item(
        task=task,
        doc_id=doc_id,
        kind="multiple_choice",
        doc_hash=hash_text(document),
        prompt_hash=hash_text(line.prompt),
        contexts=(line.prompt,),
        choices=tuple(delimiter + choice for choice in line.choices),
        choice_context=(0,) * len(line.choices),
        choice_chars=tuple(len(choice) for choice in line.choices),
        choice_bytes=tuple(len(choice.encode()) for choice in line.choices),
        label=line.label,
        doc=document,
        target=None if line.label is None else str(line.label),
        cluster=line.cluster,
    )
