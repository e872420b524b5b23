"""Make a model's GPTQ twin with GPTQModel, by default with the settings of the paper.

The result appears whole or not at all; its `qconf.json` says how the weights were made.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qconf import __version__
from server.processor import fast_dtype
from server.quantize.calibration_text import QuantizeError, sequences
from server.weights import WeightsError, check_weights

GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)
# auto-gptq's, hence the paper's; GPTQModel's own default is five times as large.
DAMPING = 0.01
# Taken over byte for byte: a pair whose tokenizers differ cannot be compared.
TOKENIZER_FILES = ("*token*.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "generation_*.json")
NOT_WEIGHTS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*")


@dataclass(frozen=True)
class Options:
    """What to quantize and how, as on the command line."""

    model: str
    out: Path
    calibration: Path
    bits: int
    group_size: int
    desc_act: bool
    sym: bool
    samples: int
    sequence_length: int
    batch_size: int
    dtype: str
    revision: str | None


def quantize(options: Options) -> None:
    """Check everything that can be checked before the weights load, then quantize."""
    check_options(options)
    if importlib.util.find_spec("gptqmodel") is None:
        raise QuantizeError("GPTQModel is not installed: install qconf with its extra 'quantize'")
    source, revision = locate(options.model, options.revision)
    check_model(source, options)
    if options.dtype == "auto":
        options = replace(options, dtype=source_dtype(source))
    batch = calibration_sequences(options, source)
    say(f"{options.samples} calibration sequences of {options.sequence_length} tokens; quantizing {options.model}")

    started = time.monotonic()
    with partial_folder(options.out) as folder:
        run_gptq(source, folder, batch, options)
        copy_tokenizer(source, folder)
        manifest = describe(options, source, revision, folder)
        (folder / "qconf.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    before, after = manifest["size"]["before"], manifest["size"]["after"]
    say(f"{options.out}: {before:,} bytes of weights became {after:,} in {time.monotonic() - started:.0f} s")


def check_options(options: Options) -> None:
    if options.group_size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise QuantizeError(f"--group-size must be one of {known}; got {options.group_size}")
    for name in ("samples", "sequence_length", "batch_size"):
        if getattr(options, name) < 1:
            raise QuantizeError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(options, name)}")
    if os.path.lexists(options.out):
        raise QuantizeError(f"{options.out} exists already and is never overwritten; name a new folder")
    if options.calibration.suffix not in (".txt", ".jsonl"):
        raise QuantizeError(f"--calibration must end in .txt or .jsonl; got {options.calibration.name}")
    if not options.calibration.is_file():
        raise QuantizeError(f"calibration file {options.calibration} does not exist")


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the model's folder, downloaded if it is a hub name, and its commit."""
    folder = Path(model)
    if folder.is_dir():
        if revision is not None:
            raise QuantizeError(f"--revision is for hub models; {model} is a local folder")
        return folder.resolve(), None
    if folder.is_absolute() or model.startswith(".") or model.count("/") > 1:
        raise QuantizeError(f"model folder {model} does not exist")
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(model, revision=revision, ignore_patterns=list(NOT_WEIGHTS)))
    except (OSError, ValueError) as exc:  # the hub's own errors derive from these two
        reason = f"{model} is not a local folder and could not be downloaded from the hub: {one_line(exc)}"
        raise QuantizeError(reason) from exc
    return snapshot, snapshot.name


def check_model(source: Path, options: Options) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (source / "config.json").is_file():
        raise QuantizeError(f"{options.model} holds no config.json, so it is not a model folder")
    build: Any = AutoModelForCausalLM.from_config
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = build(config)
    except (ImportError, KeyError, OSError, ValueError) as exc:
        reason = f"transformers cannot build {options.model} as a causal language model: {one_line(exc)}"
        raise QuantizeError(reason) from exc
    if getattr(config, "quantization_config", None) is not None:
        raise QuantizeError(f"{options.model} is quantized already; give its full-precision original")
    if weight_bytes(source) == 0:
        raise QuantizeError(f"{options.model} holds no weights (*.safetensors or *.bin)")
    try:
        # Otherwise a truncated file is noticed only after the calibration text is read.
        check_weights(source)
    except WeightsError as exc:
        raise QuantizeError(str(exc)) from exc
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and options.sequence_length > context:
        raise QuantizeError(
            f"--sequence-length {options.sequence_length} is longer than the model's context, {context}"
        )
    head = model.get_output_embeddings()
    group_size = options.group_size
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and module.in_features % max(group_size, 1):
            raise QuantizeError(f"--group-size {group_size} does not divide the {module.in_features} of {name}")


def calibration_sequences(options: Options, source: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise QuantizeError(f"the tokenizer of {options.model} does not load: {one_line(exc)}") from exc
    return sequences(options.calibration, tokenizer, options.samples, options.sequence_length)


@contextlib.contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder next to ``out`` that is renamed to ``out`` if the body succeeds and removed if not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent.resolve() / f".{out.name}.partial-{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
        if os.path.lexists(out):
            raise QuantizeError(f"{out} appeared while this ran and is never overwritten")
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_gptq(source: Path, folder: Path, batch: list[list[int]], options: Options) -> None:
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
        model.quantize(inputs, batch_size=options.batch_size)
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


def source_dtype(source: Path) -> str:
    """Return the name of the checkpoint's own dtype; GPTQModel's "auto" is always bfloat16 on a CPU."""
    from transformers import AutoConfig

    return str(getattr(AutoConfig.from_pretrained(source), "dtype", None) or "float16").removeprefix("torch.")


def copy_tokenizer(source: Path, folder: Path) -> None:
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def describe(options: Options, source: Path, revision: str | None, folder: Path) -> dict[str, Any]:
    """Return what `qconf.json` holds; a local model is named by its folder alone, so that no path is in it."""
    names = ("bits", "group_size", "desc_act", "sym", "dtype")
    return {
        "source": {"model": source.name if revision is None else options.model, "revision": revision},
        "settings": {"method": "gptq", **{name: getattr(options, name) for name in names}, "damp_percent": DAMPING},
        "calibration": {
            "file": options.calibration.name,
            "sha256": digest(options.calibration),
            "samples": options.samples,
            "sequence_length": options.sequence_length,
            "tokens": options.samples * options.sequence_length,
        },
        "size": {"before": weight_bytes(source), "after": weight_bytes(folder)},
        "versions": {"qconf": __version__, **{name: version(name) for name in ("gptqmodel", "torch", "transformers")}},
    }


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the weight files; of a folder with both formats, safetensors load."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def say(line: str) -> None:
    print(f"qconf-quantize: {line}", file=sys.stderr, flush=True)
