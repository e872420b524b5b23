"""Read text for calibration and cut it to sequences; refuse what is malformed or too short."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.quantize.errors import QuantizeError


def sequences(file: Path, tokenizer: Any, samples: int, length: int) -> list[list[int]]:
    """Return the first samples x length tokens of the text, cut to sequences; nothing is padded or dropped."""
    wanted = samples * length
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for document in documents(file):
        ids += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"] + end
        if len(ids) >= wanted:
            return [ids[start : start + length] for start in range(0, wanted, length)]
    raise QuantizeError(f"{file} is too short: {len(ids):,} tokens, but {samples} samples of {length} need {wanted:,}")


def documents(file: Path) -> Iterator[str]:
    """Yield the documents: a text file is one, and so is each line of a JSONL file."""
    if file.suffix == ".txt":
        yield "".join(line for _, line in numbered_lines(file))
        return
    for number, line in numbered_lines(file):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise QuantizeError(f'{file} line {number} is not a JSON object like {{"text": "..."}}') from exc
        if not isinstance(text, str):
            raise QuantizeError(f"{file} line {number}: `text` must be a string, got {type(text).__name__}")
        yield text


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield number, line.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise QuantizeError(f"{file} line {number} is not UTF-8 text") from exc
    except OSError as exc:
        raise QuantizeError(f"{file} cannot be read: {exc.strerror}") from exc
