"""Quantize a model with GPTQ, by GPTQModel."""

import contextlib
import importlib
import os
import tempfile
from pathlib import Path

from server.processor import fast_dtype
from server.quantize.calibration_text import sequences
from server.quantize.errors import QuantizeError, one_line
from server.quantize.options import Calibration, Options

# auto-gptq's, hence the paper's; GPTQModel's own default is five times as large.
DAMPING = 0.01


def calibration_sequences(calibration: Calibration, source: Path, model: str) -> list[list[int]]:
    """Return the calibration text as token ids."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise QuantizeError(f"the tokenizer of {model} does not load: {one_line(exc)}") from exc
    return sequences(calibration.file, tokenizer, calibration.samples, calibration.sequence_length)


def run_gptq(source: Path, folder: Path, batch: list[list[int]], batch_size: int, options: Options) -> None:
    """Write the model in ``source`` to ``folder``, quantized with the calibration sequences in ``batch``."""
    # GPTQModel cannot run with one worker, its default on two cores, and would compile a packing extension on the spot:
    # half a minute, where packing in Python takes less.
    if (os.cpu_count() or 1) < 4:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    gptqmodel, torch = map(importlib.import_module, ("gptqmodel", "torch"))
    settings = gptqmodel.GPTQConfig(
        bits=options.bits,
        group_size=options.group_size,
        desc_act=options.desc_act,
        sym=options.sym,
        damp_percent=DAMPING,
        act_group_aware=False,  # on by default, but newer than the paper
        offload_to_disk=False,  # else the path of a temporary folder ends up in config.json
    )
    kept, computed = (getattr(torch, name) for name in (options.dtype, compute_dtype(options.dtype)))
    inputs = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in batch]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes logs/ where it runs
        model = gptqmodel.GPTQModel.load(str(source), settings, dtype=computed)
        model.quantize(inputs, batch_size=batch_size)
        for parameter in model.model.parameters():  # what is not quantized
            parameter.data = parameter.data.to(kept)
        model.model.config.dtype = kept
        model.save(str(folder))
    (folder / "quant_log.csv").unlink(missing_ok=True)


def compute_dtype(dtype: str) -> str:
    """Return the dtype in which layers run and are quantized: on a CPU without fast arithmetic in ``dtype``, float32.

    float32 holds every 16-bit weight exactly, so that nothing is lost.
    """
    import torch

    return dtype if torch.cuda.is_available() or dtype == fast_dtype() else "float32"
