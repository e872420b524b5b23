"""Make a model's quantized twin, with GPTQ or by rounding to nearest.

The result appears whole or not at all; its `qconf.json` says how the weights were made.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qconf import __version__
from server.quantize.errors import QuantizeError, one_line
from server.quantize.gptq import DAMPING, calibration_sequences, run_gptq
from server.quantize.options import Options, check_options
from server.weights import WeightsError, check_weights

# Taken over byte for byte: a pair whose tokenizers differ cannot be compared.
TOKENIZER_FILES = ("*token*.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "generation_*.json")
NOT_WEIGHTS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*")


def quantize(options: Options) -> None:
    """Check everything that can be checked before the weights load, then quantize."""
    check_options(options)
    calibration = options.calibration
    if calibration and importlib.util.find_spec("gptqmodel") is None:
        raise QuantizeError("GPTQModel is not installed: install qconf with its extra 'quantize'")
    source, revision = locate(options.model, options.revision)
    check_model(source, options)
    if options.dtype == "auto":
        options = replace(options, dtype=source_dtype(source))
    batch = calibration_sequences(calibration, source, options.model) if calibration else []

    started = time.monotonic()
    with partial_folder(options.out) as folder:
        if calibration:
            text = f"{len(batch)} calibration sequences of {calibration.sequence_length} tokens"
            say(f"{text}; quantizing {options.model}")
            run_gptq(source, folder, batch, calibration.batch_size, options)
        else:
            from server.quantize.rtn import round_model

            say(f"rounding {options.model} to nearest")
            round_model(source, folder, options)
        copy_tokenizer(source, folder)
        manifest = describe(options, source, revision, folder)
        (folder / "qconf.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    before, after = manifest["size"]["before"], manifest["size"]["after"]
    say(f"{options.out}: {before:,} bytes of weights became {after:,} in {time.monotonic() - started:.0f} s")


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

    from server.quantize.rtn import check_layers, linear_layers

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
    length = options.calibration.sequence_length if options.calibration else 0
    if context is not None and length > context:
        raise QuantizeError(f"--sequence-length {length} is longer than the model's context, {context}")
    layers = linear_layers(model)
    for name, layer in layers.items():
        if layer.in_features % max(options.group_size, 1):
            raise QuantizeError(f"--group-size {options.group_size} does not divide the {layer.in_features} of {name}")
    if options.method == "rtn":
        check_layers(layers, options)


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
    calibration, used = options.calibration, ["torch", "transformers"]
    settings = {name: getattr(options, name) for name in ("method", "bits", "group_size", "desc_act", "sym", "dtype")}
    manifest: dict[str, Any] = {
        "source": {"model": source.name if revision is None else options.model, "revision": revision},
        "settings": settings,
    }
    if calibration:
        used.append("gptqmodel")
        settings["damp_percent"] = DAMPING
        manifest["calibration"] = {
            "file": calibration.file.name,
            "sha256": digest(calibration.file),
            "samples": calibration.samples,
            "sequence_length": calibration.sequence_length,
            "tokens": calibration.samples * calibration.sequence_length,
        }
    return manifest | {
        "size": {"before": weight_bytes(source), "after": weight_bytes(folder)},
        "versions": {"qconf": __version__, **{name: version(name) for name in sorted(used)}},
    }


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the weight files; of a folder with both formats, safetensors load."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def say(line: str) -> None:
    print(f"qconf-quantize: {line}", file=sys.stderr, flush=True)
