"""At start, score a few fixed rows and compare them with an earlier start's: a broken kernel must not be served."""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np

from qconf.statistics.arrays import Floats
from qconf.wire import ModelList
from server.engine.interface import Scorer
from server.engine.twin.rows import STATISTICS, WIDTH
from server.errors import StartError

logger = logging.getLogger(__name__)
LENGTHS = (4, 33, 200)
"""Tokens of the sequences: less than a block of the prefix cache, more than one, several."""
TOLERANCE = {"float32": 1e-3}
COARSE = 0.1
"""Largest change of a log-probability, in nats: in 16 bits, machines with other instructions differ by hundredths."""
COMPARED = ("base_logprob", "quantized_logprob", "kl")


async def check_canary(engine: Scorer, models: ModelList, folder: Path) -> None:
    """Compare the rows of this start with those in the folder, or keep them. StartError if they differ."""
    scored = [rows for ids in _sequences(engine) for rows in await engine.score(ids)]
    values = np.concatenate([rows.values[:, :WIDTH] for rows in scored])
    path = folder / f"canary-{_identity(engine, models)}.npy"
    if (before := _read(path, values.shape)) is None:
        _write(path, values)
        return
    tolerance = TOLERANCE.get(engine.info.dtype, COARSE)
    for name in COMPARED:
        column = STATISTICS.index(name)
        change = np.abs(values[:, column] - before[:, column])
        # A NaN is worse than any change.
        if not (change <= tolerance).all():
            row = int(np.nan_to_num(change, nan=np.inf).argmax())
            raise StartError(
                f"the pair's numbers are not those of an earlier start: {name} of row {row} was "
                f"{before[row, column]:.4f} and is {values[row, column]:.4f}, tolerance {tolerance}; "
                f"a kernel is broken here or was there (delete {path} to trust this start)"
            )


def _sequences(engine: Scorer) -> list[list[int]]:
    rng = np.random.default_rng(0)
    lengths = [min(length, engine.info.max_model_len) for length in LENGTHS]
    return [rng.integers(0, engine.info.vocab_size, length).tolist() for length in lengths]


def _identity(engine: Scorer, models: ModelList) -> str:
    """What may change the numbers by intent: the models, the dtype, vLLM and the device."""
    info = engine.info
    facts = [*(model.digest for model in models.data), info.dtype, info.vllm_version, info.device]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _read(path: Path, shape: tuple[int, ...]) -> Floats | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream:
            values = np.asarray(np.load(stream), float)
        if values.shape == shape and np.isfinite(values).all():
            return values
        damage = f"expected finite numbers of shape {shape}, got {values.shape}"
    except Exception as error:  # whatever numpy and zipfile raise on bytes that nobody wrote
        damage = str(error)
    aside = path.with_suffix(".damaged")
    os.replace(path, aside)
    logger.error("%s is damaged (%s): kept as %s, and this start's rows are kept instead", path, damage, aside.name)
    return None


def _write(path: Path, values: Floats) -> None:
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as stream:
            np.save(stream, values)
        os.replace(part, path)
    except OSError as error:
        logger.warning("--state-dir cannot be written to: %s", error.strerror)
