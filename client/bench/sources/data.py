"""Items of a file of the user's own: JSON lines with prompt, choices and label. Other files of JSON lines, too."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.bench.items import Item, LoadedTask, TaskError, hash_text
from qconf.wire import MAX_CONTINUATIONS, problem

VERSION_DIGITS = 12

L = TypeVar("L", bound=BaseModel)


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
    items = []
    for doc_id, (number, raw, line) in enumerate(parsed_lines(path, content, Line, limit)):
        if line.label is not None and line.label >= len(line.choices):
            raise TaskError(
                f"{path}, line {number}: 'label' is {line.label}, expected an index below {len(line.choices)}"
            )
        items.append(_item(path.stem, doc_id, raw, line, delimiter))
    return LoadedTask(path.stem, version(content), 0, tuple(items))


def parsed_lines(path: Path, content: bytes, kind: type[L], limit: int | None = None) -> Iterator[tuple[int, bytes, L]]:
    """Yield number, text and content of each line that is not blank. TaskError names the line and field at fault."""
    numbered = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()][:limit]
    if not numbered:
        raise TaskError(f"{path} has no items: expected one JSON object per line")
    for number, line in numbered:
        try:
            parsed = kind.model_validate_json(line)
        except ValidationError as exc:
            errors = exc.errors()
            reason = errors[0]["msg"] if errors[0]["type"] == "json_invalid" else problem(errors).message
            raise TaskError(f"{path}, line {number}: {reason}") from exc
        yield number, line, parsed


def read(path: Path) -> bytes:
    """Return the content of a file that the user named."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise TaskError(f"cannot read {path}: {exc.strerror}") from exc


def version(content: bytes) -> str:
    """Return the version of a file: the beginning of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]


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
