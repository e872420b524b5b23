"""The quantizer as a user runs it. It runs in a process of its own: the libraries below it warn at import."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.random_pair import dequantize
from server.quantize.command import app
from tests.processors import AVX2

ROOT = Path(__file__).parents[1]
WORDS = "the river runs past an old mill where seven men grind corn and talk about rain until night falls"
SAMPLES, LENGTH = 8, 128


def run(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.quantize", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)


@pytest.fixture(scope="module")
def text() -> str:
    generator = torch.Generator().manual_seed(0)
    words = WORDS.split()
    picks = torch.randint(len(words), (4000,), generator=generator)
    return " ".join(words[pick] for pick in picks)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    folder = tmp_path_factory.mktemp("quantize") / "model"
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([text], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"]))
    wrap: Any = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    build: Any = LlamaForCausalLM
    build(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def calibration(model: Path, text: str) -> Path:
    file = model.parent / "calibration.txt"
    file.write_text(text)
    return file


@pytest.fixture(scope="module", params=[{}, AVX2], ids=["this-machine", "without-avx512"])
def quantized(
    model: Path, calibration: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("out") / "quantized"
    settings = ("--samples", SAMPLES, "--sequence-length", LENGTH)
    done = run(model, out, "--calibration", calibration, *settings, **request.param)
    assert done.returncode == 0, done.stderr
    assert "calibration sequences" in done.stderr  # what it is at can be seen
    return out


def rounded(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Round weights to sixteen levels."""
    groups: torch.Tensor = weight.float().reshape(len(weight), -1, group_size)
    scale = groups.abs().amax(-1, keepdim=True) / 7.5
    return ((groups / scale).round().clamp(-8, 7) * scale).flatten(1)


def test_layout(quantized: Path) -> None:
    config = json.loads((quantized / "config.json").read_text())["quantization_config"]
    wanted = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    assert {key: config[key] for key in wanted} == wanted
    tensors = load_file(quantized / "model.safetensors")
    down = "model.layers.0.mlp.down_proj"
    assert tensors[f"{down}.qweight"].shape == (384 // 8, 256)
    assert tensors[f"{down}.qzeros"].shape == (384 // 128, 256 // 8)
    assert tensors[f"{down}.scales"].shape == (384 // 128, 256)
    assert sum(name.endswith(".qweight") for name in tensors) == 2 * 7
    assert tensors["lm_head.weight"].dtype == torch.bfloat16


def test_weights_are_as_close_as_plain_rounding(model: Path, quantized: Path) -> None:
    before, after = load_file(model / "model.safetensors"), load_file(quantized / "model.safetensors")
    names = [name.removesuffix(".qweight") for name in after if name.endswith(".qweight")]
    for name in names:
        weight = before[f"{name}.weight"].float()
        error = (dequantize(after, name) - weight).norm() / weight.norm()
        assert error < 1.5 * (rounded(weight, 128) - weight).norm() / weight.norm()


def test_first_layer_output_is_closer_than_with_plain_rounding(model: Path, quantized: Path, text: str) -> None:
    """GPTQ minimizes the error of a layer's output on the calibration text."""
    before, after = load_file(model / "model.safetensors"), load_file(quantized / "model.safetensors")
    reference = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][: SAMPLES * LENGTH])
    with torch.no_grad():
        inputs = reference.model.layers[0].input_layernorm(reference.model.embed_tokens(ids))
    for projection in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{projection}"
        weight = before[f"{name}.weight"].float()
        error = (inputs @ (dequantize(after, name) - weight).T).norm()
        assert error < 0.9 * (inputs @ (rounded(weight, 128) - weight).T).norm()


def test_manifest(model: Path, quantized: Path, calibration: Path) -> None:
    manifest = json.loads((quantized / "qconf.json").read_text())
    assert manifest["source"] == {"model": "model", "revision": None}
    assert manifest["settings"] == {
        "method": "gptq",
        "bits": 4,
        "group_size": 128,
        "desc_act": False,
        "sym": True,
        "dtype": "bfloat16",
        "damp_percent": 0.01,
    }
    assert manifest["calibration"] == {
        "file": "calibration.txt",
        "sha256": hashlib.sha256(calibration.read_bytes()).hexdigest(),
        "samples": SAMPLES,
        "sequence_length": LENGTH,
        "tokens": SAMPLES * LENGTH,
    }
    before, after = (folder.joinpath("model.safetensors").stat().st_size for folder in (model, quantized))
    assert manifest["size"] == {"before": before, "after": after}
    assert set(manifest["versions"]) == {"qconf", "gptqmodel", "torch", "transformers"}


def test_tokenizer_is_the_same_to_the_byte(model: Path, quantized: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (quantized / name).read_bytes() == (model / name).read_bytes()


def test_nothing_else_is_written(model: Path, quantized: Path) -> None:
    assert {path.name for path in quantized.parent.iterdir()} == {"quantized"}
    assert {path.name for path in model.parent.iterdir()} == {"model", "calibration.txt"}
    assert not (ROOT / "logs").exists()


def test_jsonl_rows_and_columns(model: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "calibration.jsonl"
    file.write_text("".join(json.dumps({"text": text[i : i + 500]}) + "\n" for i in range(0, 5000, 500)))
    settings = ("--samples", 4, "--sequence-length", 64, "--group-size", -1, "--desc-act", "--dtype", "float16")
    done = run(model, tmp_path / "new" / "out", "--calibration", file, *settings, GPTQMODEL_CPU_WORKERS="2")
    assert done.returncode == 0, done.stderr
    tensors = load_file(tmp_path / "new" / "out" / "model.safetensors")
    assert tensors["model.layers.0.mlp.down_proj.scales"].shape == (1, 256)
    assert tensors["lm_head.weight"].dtype == torch.float16


BAD = {
    "missing model": (["{tmp}/none", "{tmp}/out"], "model folder {tmp}/none does not exist"),
    "not a model": (["{tmp}", "{tmp}/out"], "{tmp} holds no config.json"),
    "no weights": (["{tmp}/config-only", "{tmp}/out"], "holds no weights"),
    "truncated weights": (["{tmp}/truncated", "{tmp}/out"], "model.safetensors is truncated or damaged"),
    "quantized already": (["{quantized}", "{tmp}/out"], "is quantized already"),
    "revision of a folder": (["{model}", "{tmp}/out", "--revision", "main"], "--revision is for hub models"),
    "out exists": (["{model}", "{tmp}"], "{tmp} exists already and is never overwritten"),
    "group size": (["{model}", "{tmp}/out", "--group-size", "100"], "--group-size must be one of -1, 16,"),
    "group does not divide": (["{model}", "{tmp}/out", "--group-size", "256"], "256 does not divide the 384 of model."),
    "bits": (["{model}", "{tmp}/out", "--bits", "5"], "'5' is not one of '2', '3', '4', '8'"),
    "dtype": (["{model}", "{tmp}/out", "--dtype", "int8"], "'int8' is not one of 'auto', 'bfloat16', "),
    "out missing": (["{model}"], "Missing argument 'out'"),
    "unknown option": (["{model}", "{tmp}/out", "--bit", "4"], "No such option: --bit"),
    "missing shard": (["{tmp}/sharded", "{tmp}/out"], "names model-00002-of-00002.safetensors, which is missing"),
    "samples": (["{model}", "{tmp}/out", "--samples", "0"], "--samples must be at least 1; got 0"),
    "context": (["{model}", "{tmp}/out", "--sequence-length", "512"], "longer than the model's context, 256"),
    "too little text": (
        ["{model}", "{tmp}/out", "--samples", "128"],
        "calibration.txt is too short: 4,001 tokens, but 128 samples of 64 need 8,192",
    ),
    "calibration missing": (["{model}", "{tmp}/out", "--calibration", "{tmp}/no.txt"], "no.txt does not exist"),
    "calibration kind": (["{model}", "{tmp}/out", "--calibration", "{tmp}/a.csv"], "must end in .txt or .jsonl"),
    "bad JSON": (["{model}", "{tmp}/out", "--calibration", "{tmp}/json.jsonl"], "json.jsonl line 2 is not a JSON"),
    "no text field": (["{model}", "{tmp}/out", "--calibration", "{tmp}/key.jsonl"], "key.jsonl line 1 is not a JSON"),
    "text no string": (["{model}", "{tmp}/out", "--calibration", "{tmp}/number.jsonl"], "must be a string, got int"),
    "not UTF-8": (["{model}", "{tmp}/out", "--calibration", "{tmp}/latin.txt"], "latin.txt line 2 is not UTF-8"),
}


@pytest.fixture
def bad_inputs(tmp_path: Path, model: Path) -> Path:
    for name in ("config-only", "truncated", "sharded"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (tmp_path / "truncated" / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "sharded" / "model-00001-of-00002.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "json.jsonl").write_text('{"text": "a mill"}\nmill\n')
    (tmp_path / "key.jsonl").write_text('{"words": "a mill"}\n')
    (tmp_path / "number.jsonl").write_text('{"text": 7}\n')
    (tmp_path / "latin.txt").write_bytes(b"a mill\nm\xfchle\n")
    return tmp_path


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(
    arguments: list[str],
    message: str,
    bad_inputs: Path,
    model: Path,
    quantized: Path,
    calibration: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": str(bad_inputs), "model": str(model), "quantized": str(quantized)}
    there = sorted(bad_inputs.iterdir())
    usual = ["--calibration", str(calibration), "--samples", str(SAMPLES), "--sequence-length", "64"]
    assert exit_code([*usual, *(argument.format(**places) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert message.format(**places) in error.splitlines()[-1]
    assert sorted(bad_inputs.iterdir()) == there


def exit_code(arguments: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        app(arguments, prog_name="qconf-quantize")
    return caught.value.code


def test_calibration_is_asked_for(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code([str(model), str(tmp_path / "out")]) == 2
    assert "--calibration FILE is needed: a .txt file, or a .jsonl file" in capsys.readouterr().err


def test_missing_gptqmodel_is_named(
    model: Path,
    calibration: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    assert exit_code([str(model), str(tmp_path / "out"), "--calibration", str(calibration)]) == 2
    assert "its extra 'quantize'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["typer", "safetensors"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from server.quantize.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"error: the package {package} is missing: install qconf with its extra 'quantize'\n"


def test_killed_run_leaves_no_result(model: Path, calibration: Path, tmp_path: Path) -> None:
    arguments = (model, tmp_path / "out", "--calibration", calibration, "--samples", 8, "--sequence-length", 64)
    command = [sys.executable, "-m", "server.quantize", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    assert [path.name.startswith(".out.partial-") for path in tmp_path.iterdir()] == [True]
