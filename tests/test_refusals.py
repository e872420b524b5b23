"""Pairs and settings that cannot be served: one clear sentence, exit code 2, before anything is loaded."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pairs import make_pair

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a good pair in the folders base and quantized; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("pair")
    make_pair(folder, "llama")
    return folder


def refusal(*arguments: str, loading: bool = False) -> str:
    """Return the one line that ``python -m server`` prints when it refuses.

    While weights are ``loading``, vLLM's process prints a traceback before.
    """
    run = subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert run.returncode == 2, run.stderr
    assert loading or "Traceback" not in run.stderr
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("qconf-server: error: ")
    return last


def change_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_quantization(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))


def change_quantization(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    change_config(folder, quantization_config=config["quantization_config"] | changes)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 100)


def scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a safetensors file")


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def index_missing_file(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = [token for token, index in vocabulary.items() if index in (100, 101)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(tokenizer))


BAD_QUANTIZED: dict[str, tuple[Callable[[Path], None], str]] = {
    "not-quantized": (drop_quantization, "is not quantized"),
    "other-architecture": (
        lambda folder: change_config(folder, architectures=["MistralForCausalLM"]),
        "different architectures",
    ),
    "other-shape": (lambda folder: change_config(folder, num_hidden_layers=3), "num_hidden_layers is 2 in"),
    "other-vocabulary": (lambda folder: change_config(folder, vocab_size=2048), "different vocabularies"),
    "other-tokenizer": (other_tokenizer, "tokens are missing or numbered otherwise"),
    "truncated": (truncate, "model.safetensors is truncated or damaged: incomplete metadata"),
    "not-safetensors": (scribble, "model.safetensors is truncated or damaged: header too large"),
    "missing-shard": (index_missing_file, "names model-00002-of-00002.safetensors"),
    "pickled-weights": (pickle_weights, "has no weights: expected *.safetensors files, since others can hold code"),
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "no-config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "broken-config": (lambda folder: (folder / "config.json").write_text("{"), "configuration of"),  # type: ignore[dict-item]
    "no-folder": (shutil.rmtree, "there is no folder"),
    "desc-act": (lambda folder: change_quantization(folder, desc_act=True), "desc_act=True"),
    "asymmetric": (lambda folder: change_quantization(folder, sym=False), "sym=False; GPTQ is served with 4 or 8 bits"),
    "3-bits": (lambda folder: change_quantization(folder, bits=3), "bits=3"),
}


@pytest.mark.parametrize("case", BAD_QUANTIZED)
def test_bad_quantized_checkpoint(pair_folder: Path, tmp_path: Path, case: str) -> None:
    spoil, expected = BAD_QUANTIZED[case]
    shutil.copytree(pair_folder / "quantized", tmp_path / "quantized")
    spoil(tmp_path / "quantized")
    message = refusal("--model", str(pair_folder / "base"), "--quantized", str(tmp_path / "quantized"))
    assert expected in message


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def index_one_of_two(folder: Path) -> None:
    """Write the weights to two files, and an index that has all of them in the first."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    for number in range(2):
        save_file({name: tensors[name] for name in names[number::2]}, folder / f"model-{number}.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-0.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


PACKED = "model.layers.1.mlp.down_proj.qweight"
JOINED = "model.layers.1.self_attn.k_proj.weight"
BAD_TENSORS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing": (
        "quantized",
        lambda folder: change_tensors(folder, lambda tensors: tensors.pop(PACKED)),
        f"the checkpoint of the quantized model is incomplete or damaged: {PACKED} is missing",
    ),
    "shape": (
        "base",
        lambda folder: change_tensors(folder, lambda tensors: tensors.update({JOINED: tensors[JOINED][:-8].clone()})),
        f"the checkpoint of the base model cannot be loaded at {JOINED}: ",
    ),
    "index": ("quantized", index_one_of_two, "is missing in part or whole, or is not a number"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_whole_files_with_bad_tensors(pair_folder: Path, tmp_path: Path, case: str) -> None:
    """What only shows when weights are loaded; without a check the first would be served."""
    name, spoil, expected = BAD_TENSORS[case]
    shutil.copytree(pair_folder, tmp_path, dirs_exist_ok=True)
    spoil(tmp_path / name)
    message = refusal("--model", str(tmp_path / "base"), "--quantized", str(tmp_path / "quantized"), loading=True)
    assert expected in message


@pytest.mark.skipif(
    torch.cpu.get_capabilities().get("amx_tile", False), reason="with AMX vLLM has a kernel for such weights"
)
@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "fp8", "activation_scheme": "dynamic"},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
        },
    ],
    ids=["fp8", "compressed-tensors"],
)
def test_weights_that_no_kernel_on_this_cpu_multiplies(
    pair_folder: Path, tmp_path: Path, quantization: dict[str, object]
) -> None:
    shutil.copytree(pair_folder / "quantized", tmp_path / "quantized")
    change_config(tmp_path / "quantized", quantization_config=quantization)
    message = refusal("--model", str(pair_folder / "base"), "--quantized", str(tmp_path / "quantized"))
    assert "floating-point numbers of 8 bits" in message
    assert "serve it on such a CPU or on a GPU, or quantize with GPTQ" in message


def test_code_in_checkpoints_never_runs(pair_folder: Path, tmp_path: Path) -> None:
    """Not when configurations, tokenizers and models are read, of pairs that are served all the same or refused."""
    marker = tmp_path / "code has run"
    shutil.copytree(pair_folder, tmp_path / "pair")
    for folder in (tmp_path / "pair" / "base", tmp_path / "pair" / "quantized"):
        (folder / "theirs.py").write_text(f"open({str(marker)!r}, 'w').close()\nraise SystemExit(0)\n")
        classes = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
        change_config(folder, model_type="theirs", auto_map=classes)
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps(
                tokenizer | {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Tokenizer", None]}}
            )
        )
    message = refusal("--model", str(tmp_path / "pair" / "base"), "--quantized", str(tmp_path / "pair" / "quantized"))
    assert not marker.exists()
    assert "has no tokenizer that can be loaded" in message


def test_truncated_base_checkpoint(pair_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(pair_folder / "base", tmp_path / "base")
    truncate(tmp_path / "base")
    assert "is truncated" in refusal("--model", str(tmp_path / "base"), "--quantized", str(pair_folder / "quantized"))


BAD_ARGUMENTS = {
    "context": (["--max-model-len", "513"], "513"),
    "pipeline": (["--pipeline-parallel-size", "2"], "--pipeline-parallel-size is 2, expected 1"),
    "port": (["--port", "70000"], "--port is '70000'"),
    "demo-and-model": (["--demo"], "leave out --model and --quantized"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(pair_folder: Path, case: str) -> None:
    arguments, expected = BAD_ARGUMENTS[case]
    message = refusal("--model", str(pair_folder / "base"), "--quantized", str(pair_folder / "quantized"), *arguments)
    assert expected in message


def test_quantized_with_a_shorter_context(pair_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(pair_folder / "quantized", tmp_path / "quantized")
    change_config(tmp_path / "quantized", max_position_embeddings=256)
    arguments = ["--model", str(pair_folder / "base"), "--quantized", str(tmp_path / "quantized")]
    assert "300" in refusal(*arguments, "--max-model-len", "300")


def test_missing_model() -> None:
    assert "--model is missing" in refusal("--quantized", "somewhere")
    assert "--quantized is missing" in refusal("--model", "somewhere")


def test_the_demo_says_why_its_server_did_not_start(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "demo.run"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env=os.environ | {"QCONF_MODEL": "mine", "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 1
    (log,) = (tmp_path / "runs").glob("*.server.log")
    assert run.stderr.splitlines()[-1] == (
        "The server did not start: --demo takes the bundled pair: leave out --model and --quantized "
        f"(its output: {log.relative_to(tmp_path)})"
    )


def test_port_in_use(pair_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refusal(
            "--model", str(pair_folder / "base"), "--quantized", str(pair_folder / "quantized"), "--port", str(port)
        )
    assert f"port {port}: Address already in use" in message


def test_hub_name_without_a_hub() -> None:
    assert "no-such/model" in refusal("--model", "no-such/model", "--quantized", "no-such/model-gptq")


def test_unknown_engine_argument(pair_folder: Path) -> None:
    arguments = ["--model", str(pair_folder / "base"), "--quantized", str(pair_folder / "quantized")]
    run = subprocess.run(
        [sys.executable, "-m", "server", *arguments, "--no-such-argument"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 2
    assert "--no-such-argument" in run.stderr


def test_missing_package() -> None:
    """With the client alone installed, the command says what to install."""
    hide = "import sys; sys.modules['pydantic_settings'] = None; from server.__main__ import main; sys.exit(main())"
    run = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert run.stderr == (
        "qconf-server: error: the package pydantic_settings is missing: "
        "install qconf with its extra 'gpu', or for CPUs as the README says\n"
    )
