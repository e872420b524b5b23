"""Make a model's GPTQ twin with GPTQModel, by default with the settings of the paper.

The result appears under OUT whole or not at all. Beside the weights, `qconf.json` says how they were made.
"""

import argparse
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
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qconf import __version__
from server.processor import fast_dtype
from server.quantize.calibration_text import QuantizeError, sequences

BITS = (2, 3, 4, 8)
DTYPES = ("auto", "bfloat16", "float16", "float32")
GROUP_SIZES = (-1, 16, 32, 64, 128, 256, 512, 1024)
# auto-gptq's, hence the paper's; GPTQModel's own default is five times as large.
DAMPING = 0.01
# Taken over byte for byte: a pair whose tokenizers differ cannot be compared.
TOKENIZER_FILES = ("*token*.json", "*vocab*", "merges.txt", "*.model", "*.tiktoken", "*.jinja", "generation_*.json")
NOT_WEIGHTS = ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "onnx/*", "original/*")


def main(argv: Sequence[str] | None = None) -> int | None:
    args = parse(argv)
    try:
        quantize(args)
    except QuantizeError as exc:
        print(f"qconf-quantize: error: {exc}", file=sys.stderr)
        return 2
    return None


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="qconf-quantize", description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("model", metavar="MODEL", help="local folder or hub name of the full-precision model")
    add("out", metavar="OUT", type=Path, help="folder to make; must not exist")
    add("--calibration", metavar="FILE", type=Path, help="text (.txt), or .jsonl with a `text` field; needed")
    add("--bits", type=int, choices=BITS, default=4, help="bits per weight")
    add("--group-size", type=int, default=128, help="weights per scale; -1: a whole row")
    add("--desc-act", action="store_true", help="quantize columns by decreasing activation")
    add("--sym", action=argparse.BooleanOptionalAction, default=True, help="symmetric levels")
    add("--samples", type=int, default=128, help="calibration sequences")
    add("--sequence-length", type=int, default=2048, help="tokens in each")
    add("--batch-size", type=int, default=1, help="calibration sequences run at once")
    add("--dtype", choices=DTYPES, default="auto", help="of what stays unquantized; auto: the model's own")
    add("--revision", help="branch, tag or commit of a hub model")
    return parser.parse_args(argv)


def quantize(args: argparse.Namespace) -> None:
    """Check everything that can be checked before the weights load, then quantize."""
    check_arguments(args)
    if importlib.util.find_spec("gptqmodel") is None:
        raise QuantizeError("GPTQModel is not installed: install qconf with its extra 'quantize'")
    source, revision = locate(args.model, args.revision)
    check_model(source, args)
    args.dtype = source_dtype(source) if args.dtype == "auto" else args.dtype
    batch = calibration_sequences(args, source)
    say(f"{args.samples} calibration sequences of {args.sequence_length} tokens; quantizing {args.model}")

    started = time.monotonic()
    with partial_folder(args.out) as folder:
        run_gptq(source, folder, batch, args)
        copy_tokenizer(source, folder)
        manifest = describe(args, source, revision, folder)
        (folder / "qconf.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    before, after = manifest["size"]["before"], manifest["size"]["after"]
    say(f"{args.out}: {before:,} bytes of weights became {after:,} in {time.monotonic() - started:.0f} s")


def check_arguments(args: argparse.Namespace) -> None:
    if args.group_size not in GROUP_SIZES:
        known = ", ".join(map(str, GROUP_SIZES))
        raise QuantizeError(f"--group-size must be one of {known}; got {args.group_size}")
    for name in ("samples", "sequence_length", "batch_size"):
        if getattr(args, name) < 1:
            raise QuantizeError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    if os.path.lexists(args.out):
        raise QuantizeError(f"{args.out} exists already and is never overwritten; name a new folder")
    if args.calibration is None:
        raise QuantizeError("--calibration FILE is needed: a .txt file, or a .jsonl file with a `text` field per line")
    if args.calibration.suffix not in (".txt", ".jsonl"):
        raise QuantizeError(f"--calibration must end in .txt or .jsonl; got {args.calibration.name}")
    if not args.calibration.is_file():
        raise QuantizeError(f"calibration file {args.calibration} does not exist")


def locate(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The model's folder, downloaded if it is a hub name, and the commit it is at."""
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


def check_model(source: Path, args: argparse.Namespace) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (source / "config.json").is_file():
        raise QuantizeError(f"{args.model} holds no config.json, so it is no model folder")
    build: Any = AutoModelForCausalLM.from_config
    try:
        config = AutoConfig.from_pretrained(source)
        with torch.device("meta"):
            model = build(config)
    except (ImportError, KeyError, OSError, ValueError) as exc:
        raise QuantizeError(f"{args.model} is no causal language model to transformers: {one_line(exc)}") from exc
    if getattr(config, "quantization_config", None) is not None:
        raise QuantizeError(f"{args.model} is quantized already; give its full-precision original")
    if weight_bytes(source) == 0:
        raise QuantizeError(f"{args.model} holds no weights (*.safetensors or *.bin)")
    check_weights(source)
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and args.sequence_length > context:
        raise QuantizeError(f"--sequence-length {args.sequence_length} is longer than the model's context, {context}")
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and module.in_features % max(args.group_size, 1):
            raise QuantizeError(f"--group-size {args.group_size} does not divide the {module.in_features} of {name}")


def check_weights(source: Path) -> None:
    """Check the files' headers: otherwise a truncated file is only noticed after the calibration text is read."""
    from safetensors import SafetensorError, safe_open

    for file in source.glob("*.safetensors"):
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as exc:
            raise QuantizeError(f"{file} is damaged: {exc}") from exc


def calibration_sequences(args: argparse.Namespace, source: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise QuantizeError(f"the tokenizer of {args.model} does not load: {one_line(exc)}") from exc
    return sequences(args.calibration, tokenizer, args.samples, args.sequence_length)


@contextlib.contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside OUT that becomes OUT if the body succeeds and vanishes if it does not."""
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


def run_gptq(source: Path, folder: Path, batch: list[list[int]], args: argparse.Namespace) -> None:
    # GPTQModel cannot run with one worker, its default on two cores, and would compile a packing extension on the spot:
    # half a minute, where packing in Python takes less.
    if (os.cpu_count() or 1) < 4:
        os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")
    gptqmodel, torch = map(importlib.import_module, ("gptqmodel", "torch"))
    settings = gptqmodel.GPTQConfig(
        bits=args.bits,
        group_size=args.group_size,
        desc_act=args.desc_act,
        sym=args.sym,
        damp_percent=DAMPING,
        act_group_aware=False,  # on by default, but newer than the paper
        offload_to_disk=False,  # else the path of a temporary folder ends up in config.json
    )
    kept, computed = (getattr(torch, name) for name in (args.dtype, compute_dtype(args.dtype)))
    inputs = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in batch]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes logs/ where it runs
        model = gptqmodel.GPTQModel.load(str(source), settings, dtype=computed)
        model.quantize(inputs, batch_size=args.batch_size)
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
    """The name of the checkpoint's own dtype; GPTQModel's "auto" is always bfloat16 on a CPU."""
    from transformers import AutoConfig

    return str(getattr(AutoConfig.from_pretrained(source), "dtype", None) or "float16").removeprefix("torch.")


def copy_tokenizer(source: Path, folder: Path) -> None:
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)


def describe(args: argparse.Namespace, source: Path, revision: str | None, folder: Path) -> dict[str, Any]:
    """What `qconf.json` holds; a local model is named by its folder alone, so that no machine's paths travel along."""
    names = ("bits", "group_size", "desc_act", "sym", "dtype")
    return {
        "source": {"model": source.name if revision is None else args.model, "revision": revision},
        "settings": {"method": "gptq", **{name: getattr(args, name) for name in names}, "damp_percent": DAMPING},
        "calibration": {
            "file": args.calibration.name,
            "sha256": digest(args.calibration),
            "samples": args.samples,
            "sequence_length": args.sequence_length,
            "tokens": args.samples * args.sequence_length,
        },
        "size": {"before": weight_bytes(source), "after": weight_bytes(folder)},
        "versions": {"qconf": __version__, **{name: version(name) for name in ("gptqmodel", "torch", "transformers")}},
    }


def digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files; where both formats lie, safetensors are what loads."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def say(line: str) -> None:
    print(f"qconf-quantize: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
