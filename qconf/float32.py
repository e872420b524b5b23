"""Long lists of numbers on the wire: float32, little-endian, in base64."""

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt


def to_base64(values: npt.NDArray[np.floating[Any]]) -> str:
    """Encode numbers, which are rounded to float32."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def from_base64(text: str) -> npt.NDArray[np.float32]:
    """Decode what ``to_base64`` encoded. ValueError where it is something else."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected float32 numbers in base64: {error}") from error
