"""Corpora of token ids: JSON lines with a prompt and what follows it, as ``python -m client.trace`` writes them.

The prompt is context, and every token after it is scored, by its id: nothing is tokenized.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from client.bench.items import LoadedTask, TaskError, Window
from client.bench.sources.corpus import window_item
from client.bench.sources.data import parsed_lines, read, version
from qconf.wire import ModelInfo

RECORDS = ".jsonl"
"""End of the name of a corpus that has records; any other is a text."""

# Ids are kept in 4 bytes.
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]


class Record(BaseModel):
    """One line. Where the tokens are a model's own greedy text, ``greedy_of`` is the model's digest.

    ``mirrored`` is what a server has noted of a recorded call; it decides nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt_token_ids: TokenIds
    token_ids: TokenIds
    greedy_of: str | None = None
    mirrored: dict[str, Any] | None = None


def load_records(
    path: Path, base: ModelInfo, *, window: int | None = None, stride: int | None = None, limit: int | None = None
) -> LoadedTask:
    """Return a task named after the file, with a record per item.

    Records longer than a window, by default the models' context, are cut when they are sent.
    """
    check_windows(base, window, stride)
    content = read(path)
    records = [(number, record) for number, _, record in parsed_lines(path, content, Record, limit)]
    _check_model(path, records, base)
    items = tuple(
        window_item(
            path.stem,
            index,
            Window(record.prompt_token_ids, record.token_ids, 0),
            "record" if record.greedy_of is None else "trace",
        )
        for index, (_, record) in enumerate(records)
    )
    return LoadedTask(path.stem, version(content), 0, items)


def check_windows(base: ModelInfo, window: int | None, stride: int | None) -> None:
    """Raise TaskError for windows that are longer than the models' context, and strides that are not shorter."""
    longest = window or base.max_model_len
    if longest > base.max_model_len:
        raise TaskError(f"a window of {longest} tokens is longer than the models' context of {base.max_model_len}")
    if stride is not None and stride >= longest:
        raise TaskError(f"a stride of {stride} tokens is not shorter than a window of {longest}")


def _check_model(path: Path, records: list[tuple[int, Record]], base: ModelInfo) -> None:
    """Raise TaskError where a record is the greedy text of another model, or some are greedy texts and others not."""
    expected = base.digest if records[0][1].greedy_of is not None else None
    for number, record in records:
        if record.greedy_of != expected:
            wanted = f"the base model's digest {expected!r}" if expected else "none, as in the first record"
            raise TaskError(f"{path}, line {number}: 'greedy_of' is {record.greedy_of!r}, expected {wanted}")
