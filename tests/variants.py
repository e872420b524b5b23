"""Run folders of several quantized variants of one base on the same items, for tests of what compares them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from qconf.run.columns import ItemResult
from qconf.run.folder import Manifest
from tests.synthetic_run import items, tokens, window, write
from tests.test_results import manifest

BASE = items("piqa", 200, 2, noise=0)
SIZES = {"w8": 1_000_000, "w4": 500_000, "w3": 450_000}
"""Bytes of each variant; the base has 16 bits per weight, and 2,000,000 bytes."""
NOISE = {"w8": 0.02, "w4": 0.3, "w3": 1.5}
"""Standard deviation of what is added to the base model's log-likelihoods."""


def described(name: str) -> Manifest:
    """Return the manifest of a run of that variant."""
    about = manifest()
    assert about.subject is not None
    models = about.subject.models
    assert models.quantized.size is not None
    size = models.quantized.size.model_copy(update={"bytes": SIZES[name], "bits_per_weight": SIZES[name] / 125_000})
    quantized = models.quantized.model_copy(
        update={"root": f"fake/{name}", "digest": f"digest of {name}", "size": size}
    )
    subject = about.subject.model_copy(update={"models": models.model_copy(update={"quantized": quantized})})
    return about.model_copy(update={"subject": subject})


def rows(name: str) -> list[ItemResult]:
    """Return the items under a variant: the base model with noise of the variant's size."""
    rng = np.random.default_rng(5)
    return [
        replace(row, quantized_logprob=(row.base_logprob + rng.normal(0, NOISE[name], row.n_choices)).tolist())
        for row in BASE
    ]


def corpus(name: str) -> pa.Table:
    """Return the tokens of a corpus, whose KL grows with the variant's noise."""
    table = tokens("prose", 20, 30, 3)
    place = table.schema.get_field_index("kl")
    kl = np.asarray(table["kl"]) * np.float32(NOISE[name])
    return table.set_column(place, table.schema.field(place), pa.array(kl))


def write_variant(folder: Path, name: str, *, with_corpus: bool = False, about: Manifest | None = None) -> Path:
    """Write the run of a variant and return its folder."""
    windows = [window("prose", number) for number in range(20)] if with_corpus else []
    table = corpus(name) if with_corpus else None
    return write(folder, [*rows(name), *windows], table, about=about or described(name))
