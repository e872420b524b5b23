"""Columns of ``tokens.parquet``, batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

AT_ONCE = 65_536
"""Tokens of a batch."""


def read_columns(path: Path, task: str, columns: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yield columns of a corpus, a batch at a time; columns that the file of an earlier version lacks are left out."""
    # pre_buffer keeps every row group in memory.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(AT_ONCE, columns=["task", *there]):
            chosen = batch.filter(pc.equal(batch["task"], task))
            yield {name: chosen[name].to_numpy(zero_copy_only=False) for name in there}
