"""`python -m demo [OUT]`: make the demo pair and its tasks again, from the seed."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Read when torch loads: threads that wait by spinning are several times slower on cores shared with others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from demo import train
from demo.items import write_tasks
from demo.world import World
from qconf.demo import FOLDER, TASKS

ROOT = Path(__file__).parents[1]
SCALES = {"full": train.FULL, "toy": train.TOY}
TASK_FILES = ("*.yaml", "_multiple_choice", "loader.py")


def main() -> None:
    args = parse()
    torch.set_num_threads(2)  # on every machine: the sums, and so the weights, depend on it
    args.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.out, prefix=".making-") as folder:
        make(Path(folder), World(args.seed), SCALES[args.scale])
        for name in ("pair", "tasks"):
            shutil.rmtree(args.out / name, ignore_errors=True)
            (Path(folder) / name).rename(args.out / name)
    print(f"{args.out}: pair and tasks made in {time.monotonic() - started:.0f} s")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=FOLDER, help="gets pair/ and tasks/ (default: qconf/demo)")
    parser.add_argument("--scale", choices=SCALES, default="full", help="toy: seconds, for a test of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make(folder: Path, world: World, scale: train.Scale) -> None:
    print("tokenizer", flush=True)
    tokenizer = train.train_tokenizer(world, scale.vocabulary)
    model = train.train(world, scale, tokenizer)
    train.spread_channels(model, scale.spread, world.seed)
    base = folder / "pair" / "base"
    train.save(model, tokenizer, base)
    texts = train.corpus_sample(world, tokenizer, scale.samples * scale.context)
    quantize(base, folder / "pair" / "quantized", texts, scale)
    for file in (file for pattern in TASK_FILES for file in TASKS.glob(pattern)):
        (folder / "tasks").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "tasks" / file.name)
    write_tasks(world, folder / "tasks", scale.items)


def quantize(base: Path, out: Path, texts: list[str], scale: train.Scale) -> None:
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "calibration.jsonl"
        calibration.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        command = [sys.executable, "-m", "server.quantize", str(base), str(out), "--calibration", str(calibration)]
        command += ["--samples", str(scale.samples), "--sequence-length", str(scale.context)]
        subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
