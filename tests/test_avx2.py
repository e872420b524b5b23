"""A machine without AVX-512, on any x86 machine: vLLM's build for AVX2, the server's own kernel for packed weights."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from demo.local_server import running_server
from server.engine.twin.compiled import CACHE_VARIABLE
from tests.pairs import make_pair
from tests.processors import AVX2, AVX2_WITHOUT_KERNEL
from tests.test_oracle import check_against_oracle

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86 processors")


@pytest.fixture(autouse=True)
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every process that a test starts take the machine for one without AVX-512."""
    for name, value in AVX2.items():
        monkeypatch.setenv(name, value)


def test_without_arguments_the_demo_pair_is_served_in_float32_by_the_build_for_avx2() -> None:
    with running_server() as server:
        said = [line for line in server.log.read_text().splitlines() if "demo" in line and line.startswith("this")]
        assert said == ["this is the bundled demo pair: give --model and --quantized to serve your own"]
        models = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert {model["dtype"] for model in models} == {"float32"}
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        libraries = {Path(each.path).name for process in processes for each in process.memory_maps()}
        assert "_C_AVX2.abi3.so" in libraries
        assert not {"_C.abi3.so", "_C_AVX512.abi3.so"} & libraries


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "compressed-tensors-asymmetric"])
def test_float32(tmp_path: Path, method: str) -> None:
    check_against_oracle(make_pair(tmp_path, "llama", method=method), "float32")


def test_bfloat16_in_groups_of_32(tmp_path: Path) -> None:
    check_against_oracle(make_pair(tmp_path, "qwen2", group_size=32), "bfloat16")


def test_a_missing_kernel_is_named_in_the_last_line() -> None:
    """Without the server's own kernel vLLM chooses one that its build lacks, and fails in its first step."""
    command = [sys.executable, "-m", "server", "--demo", "--port", "0", "--dtype", "bfloat16"]
    run = subprocess.run(
        command, env=os.environ | AVX2_WITHOUT_KERNEL, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        "qconf-server: error: vLLM cannot run the pair: vLLM's build for this processor has no kernel cpu_gemm_wna16, "
        "which the checkpoint needs: serve it on another CPU or on a GPU, or quantize it with GPTQ"
    )


COMPILED = """
import torch
from server.engine.twin.compiled import Compiled
from server.engine.twin.kernels import statistics
generator = torch.Generator().manual_seed(0)
base, quantized = torch.randn((2, 64, 1000), generator=generator).bfloat16()
targets = torch.randint(1000, (64,), generator=generator)
found, expected = Compiled(statistics)(targets, base, quantized)[0], statistics(targets, base, quantized)[0]
assert (found - expected).abs().max() < 1e-4, (found - expected).abs().max()
"""


def test_compiled_code_of_another_instruction_set_is_not_loaded(tmp_path: Path) -> None:
    """A machine's cache may come from another, as in a container's volume: torch would load its code."""
    own = {name: value for name, value in os.environ.items() if name not in {*AVX2, CACHE_VARIABLE}}
    own |= {"TORCHDYNAMO_DISABLE": "0", "TMPDIR": str(tmp_path)}
    for environment in (own | AVX2, own):
        subprocess.run([sys.executable, "-c", COMPILED], env=environment, check=True, timeout=300)
