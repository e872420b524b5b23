"""Prompts of a file: JSON lines with a prompt or messages (NAME.jsonl), or lines of plain text."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from client.bench.items import TaskError
from client.bench.sources.data import parsed_lines, read
from qconf.wire import Message, Request, TextOrIds, invalid

JSON_LINES = ".jsonl"


class Prompt(Request):
    """A prompt, as in /compare: a text, token ids, or the messages of a chat."""

    prompt: TextOrIds | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> "Prompt":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt", "expected exactly one of 'prompt' and 'messages'")
        return self


@dataclass(frozen=True)
class Placed:
    """A prompt, and the file and line that it stands in."""

    place: str
    prompt: Prompt


def read_prompts(path: Path) -> list[Placed]:
    """Read a file of prompts; blank lines do not count. TaskError names the file, the line and the field at fault."""
    content = read(path)
    if path.suffix == JSON_LINES:
        return [Placed(f"{path}, line {number}", prompt) for number, _, prompt in parsed_lines(path, content, Prompt)]
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as exc:
        raise TaskError(f"{path} is not UTF-8 text: byte {exc.start} is {content[exc.start]:#04x}") from exc
    found = [
        Placed(f"{path}, line {number}", Prompt(prompt=line)) for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not found:
        raise TaskError(f"{path} has no prompts: expected one per line")
    return found
