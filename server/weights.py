"""Checks of a checkpoint's weight files before anything is loaded. No vLLM and no torch."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


class WeightsError(Exception):
    """A weight file is missing, truncated or damaged; the message is one sentence that names it."""


def check_weights(folder: Path) -> None:
    """Raise WeightsError unless every file that the index names is there and every safetensors file is whole.

    Only headers are read: safetensors compares what a header describes with the length of its file.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(name for name in _names(index) if not (folder / name).is_file())
        if missing:
            raise WeightsError(
                f"the checkpoint {folder} is incomplete: {index.name} names {missing[0]}, which is missing"
            )
    for file in sorted(folder.glob("*.safetensors")):
        _check_header(file)


def _names(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the weight index {index} is damaged: expected a JSON object with a weight_map") from error


def _check_header(file: Path) -> None:
    try:
        with safe_open(file, "np"):
            pass
    except (OSError, SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise WeightsError(f"the weight file {file} is truncated or damaged: {reason}") from error
