"""Rounding to nearest: GPTQ's grid, its checkpoint format, and a server for the result."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from benchmarks.random_pair import dequantize
from server.quantize.command import app
from server.quantize.rtn import round_to_nearest
from tests.pairs import FAMILIES, TinyPair, make_pair
from tests.test_oracle import check_against_oracle

BITS, GROUPS = (2, 4, 8), (16, 64, 128)
GRID_OF_GPTQMODEL = """
import sys
from gptqmodel import GPTQConfig
from gptqmodel.quantization.quantizer import Quantizer, quantize
from safetensors.torch import load_file, save_file
weight, rounded = load_file(sys.argv[1])["weight"], {}
for bits in (2, 4, 8):
    for group in (16, 64, 128):
        grid = Quantizer(GPTQConfig(bits=bits, group_size=group, sym=True))
        grid.configure(perchannel=True)
        groups = weight.view(-1, group)
        grid.find_params(groups, weight=True)
        rounded[f"{bits}/{group}"] = quantize(groups, grid.scale, grid.zero, grid.maxq, False).view_as(weight)
save_file(rounded, sys.argv[2])
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("pair"), "llama").base


def round_base(base: Path, out: Path, *arguments: str) -> int | str | None:
    """Run the command in this process, and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        app([str(base), str(out), "--method", "rtn", *arguments], prog_name="qconf-quantize")
    return caught.value.code


def test_the_grid_is_that_of_gptqmodel(tmp_path: Path) -> None:
    """Without an error to compensate, GPTQModel's quantizer rounds as we do, to the bit."""
    weight = torch.randn((96, 128), generator=torch.Generator().manual_seed(0)) * 0.04
    weight[3] = 0  # GPTQModel has a rule for groups of zeros
    save_file({"weight": weight}, tmp_path / "weight.safetensors")
    # A process of its own: GPTQModel warns at import, and changes the environment.
    files = [str(tmp_path / f"{name}.safetensors") for name in ("weight", "rounded")]
    subprocess.run([sys.executable, "-c", GRID_OF_GPTQMODEL, *files], cwd=tmp_path, check=True, capture_output=True)
    theirs = load_file(files[1])
    for bits in BITS:
        for group in GROUPS:
            scales, levels = round_to_nearest(weight, group, bits)
            ours = scales.repeat_interleave(group, 1) * (levels - 2 ** (bits - 1))
            assert torch.equal(ours, theirs[f"{bits}/{group}"]), f"{bits} bits, groups of {group}"
            assert levels.min() == 0
            assert levels.max() == 2**bits - 1


@pytest.mark.parametrize(("bits", "group"), [(2, 16), (4, 64), (8, 32), (4, -1)])
def test_dequantized_weights_are_the_rounded_ones(bits: int, group: int, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert round_base(base, out, "--bits", str(bits), "--group-size", str(group)) == 0
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    names = [name.removesuffix(".qweight") for name in after if name.endswith(".qweight")]
    assert len(names) == 2 * 7
    for name in names:
        weight = before.pop(f"{name}.weight").numpy()
        groups = weight.reshape(len(weight), -1, weight.shape[1] if group == -1 else group)
        scale = 2 * np.abs(groups).max(-1, keepdims=True) / np.float32(2**bits - 1)
        level = np.clip(np.rint(groups / scale) + 2 ** (bits - 1), 0, 2**bits - 1)
        stored = scale.astype(np.float16).astype(np.float32)
        expected = (stored * (level - 2 ** (bits - 1))).reshape(weight.shape)
        np.testing.assert_array_equal(dequantize(after, name, bits).numpy(), expected, err_msg=name)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), "the rest is as it was"
    manifest = json.loads((out / "qconf.json").read_text())
    settings = {"method": "rtn", "bits": bits, "group_size": group, "desc_act": False, "sym": True, "dtype": "float32"}
    assert manifest["settings"] == settings
    assert "calibration" not in manifest
    assert set(manifest["versions"]) == {"qconf", "torch", "transformers"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1, "whoever reads one file can read all"


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (8, 32)])
def test_served_it_agrees_with_transformers(bits: int, group: int, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--bits", str(bits), "--group-size", str(group), "--dtype", "float16")
    assert round_base(base, out, *arguments) == 0
    tensors = load_file(out / "model.safetensors")
    assert tensors["lm_head.weight"].dtype == torch.float16
    load: Any = LlamaForCausalLM.from_pretrained
    model, twin = load(base, dtype=torch.float32), load(base, dtype=torch.float32)
    for name, module in twin.named_modules():
        if f"{name}.qweight" in tensors:
            module.weight.data = dequantize(tensors, name, bits)
    check_against_oracle(TinyPair(base, out, model, twin), "float16")


@pytest.mark.parametrize("family", ["opt", "bloom"])
def test_biases_and_tied_heads_are_kept(family: str, tmp_path: Path) -> None:
    base = make_pair(tmp_path, family, tied=True).base
    assert round_base(base, tmp_path / "out", "--group-size", "32") == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    rounded = {f"{name.removesuffix('.qweight')}.weight" for name in after if name.endswith(".qweight")}
    assert rounded
    assert {name for name in after if name.endswith((".weight", ".bias"))} == set(before) - rounded
    assert any(name.endswith(".bias") for name in after)
    assert FAMILIES[family][0].from_pretrained(tmp_path / "out").tie_word_embeddings


BAD = {
    "calibration": (["--calibration", "text.txt"], "--calibration is for --method gptq; got --method rtn"),
    "samples": (["--samples", "128"], "--samples is for --method gptq"),
    "batch size": (["--batch-size", "1"], "--batch-size is for --method gptq"),
    "desc_act": (["--desc-act"], "--desc-act is for --method gptq"),
    "asymmetric": (["--no-sym"], "--sym is for --method gptq; got --method rtn, which rounds to symmetric levels"),
    "3 bits": (["--bits", "3"], "--bits must be 2, 4 or 8 with --method rtn"),
    "group size": (["--group-size", "100"], "--group-size must be one of -1, 16,"),
    "group does not divide": (["--group-size", "512"], "512 does not divide the 128 of model.layers.0."),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    arguments: list[str], message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert round_base(base, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_without_linear_layers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build: Any = GPT2LMHeadModel
    build(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    assert round_base(tmp_path / "gpt2", tmp_path / "out", "--group-size", "32") == 2
    assert "has no linear layers to round" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_layers_that_do_not_fill_words_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, options = FAMILIES["llama"]
    build: Any = LlamaForCausalLM
    build(kind(**options | {"intermediate_size": 260})).save_pretrained(tmp_path / "odd")
    assert round_base(tmp_path / "odd", tmp_path / "out", "--group-size", "-1") == 2
    assert "packs 8 weights to a word, which does not divide the 260 of model.layers.0.mlp." in capsys.readouterr().err
