"""The quantizer's options, and the checks that need no model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.quantize.errors import QuantizeError

GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)

Method = Literal["gptq", "rtn"]


@dataclass(frozen=True)
class Calibration:
    """The text that GPTQ minimizes errors on, and how much of it."""

    file: Path
    samples: int
    sequence_length: int
    batch_size: int


@dataclass(frozen=True)
class Options:
    """What to quantize and how, as on the command line. Without ``calibration``, weights are rounded to nearest."""

    model: str
    out: Path
    calibration: Calibration | None
    bits: int
    group_size: int
    desc_act: bool
    sym: bool
    dtype: str
    revision: str | None

    @property
    def method(self) -> Method:
        """Return the method's name."""
        return "rtn" if self.calibration is None else "gptq"


def check_options(options: Options) -> None:
    """Raise QuantizeError for the first option that cannot be used."""
    if options.group_size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise QuantizeError(f"--group-size must be one of {known}; got {options.group_size}")
    if os.path.lexists(options.out):
        raise QuantizeError(f"{options.out} exists already and is never overwritten; name a new folder")
    if options.calibration is not None:
        _check_calibration(options.calibration)
    elif options.bits == 3:
        raise QuantizeError("--bits must be 2, 4 or 8 with --method rtn, whose words hold whole weights; got 3")


def _check_calibration(calibration: Calibration) -> None:
    for name in ("samples", "sequence_length", "batch_size"):
        if getattr(calibration, name) < 1:
            raise QuantizeError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(calibration, name)}")
    if calibration.file.suffix not in (".txt", ".jsonl"):
        raise QuantizeError(f"--calibration must end in .txt or .jsonl; got {calibration.file.name}")
    if not calibration.file.is_file():
        raise QuantizeError(f"calibration file {calibration.file} does not exist")
