"""The pair on two devices: shards of each model (tensor parallel), and copies of the pair (data parallel)."""

import os
import re
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from demo.local_server import running_server
from qconf.statistics.arrays import Floats

PROMPTS = [
    "Emma is feeding the animals in the barn in Greyport.",
    "Passage: Karl keeps a turtle in Northam. In the evening he brings it some bread.",
    "the stone is heavy and the water is cold, and then she",
]

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two devices want two cores")


@pytest.fixture(scope="module", params=["tensor", "data"])
def parallel(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Start a server whose pair is on two devices, and return how it is divided."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")  # on a CPU a device is a set of cores
        with running_server("--demo", f"--{request.param}-parallel-size", "2") as server:
            yield request.param, server.url


def columns(url: str, prompt: str) -> dict[str, Floats]:
    reply = httpx.post(f"{url}/compare", json={"prompt": prompt, "top_logprobs": 5}, timeout=120).json()["prompt"]
    found = {name: np.array(reply[name][1:]) for name in ("kl", "js")}
    for model in ("base", "quantized"):
        for name in ("logprobs", "entropy", "confidence"):
            found[f"{model} {name}"] = np.array(reply[model][name][1:])
        found[f"{model} top"] = np.array([top["logprobs"] for top in reply[model]["top"][1:]]).ravel()
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_numbers_are_those_of_one_device(server_url: str, parallel: tuple[str, str], prompt: str) -> None:
    """Copies compute the same; shards add up in another order, in bfloat16: logits from 16 to 32 then move by 1/8."""
    one, two = columns(server_url, prompt), columns(parallel[1], prompt)
    for name, expected in one.items():
        largest, mean = (0.05, 0.01) if name in ("kl", "js") else (0.26, 0.03)
        np.testing.assert_allclose(two[name], expected, rtol=0, atol=largest, err_msg=name)
        assert np.abs(two[name] - expected).mean() < mean, name


def test_requests_are_shared_out(parallel: tuple[str, str]) -> None:
    kind, url = parallel
    entries = [{"prompt": [2 + (i + k) % 400 for k in range(60)], "detail": "summary"} for i in range(40)]
    results = httpx.post(f"{url}/compare/batch", json={"requests": entries}, timeout=120).json()["results"]
    assert all("summary" in each for each in results)
    text = httpx.get(f"{url}/metrics").text
    counts = re.findall(
        r'^vllm:request_success_total\{engine="(\d)",finished_reason="stop",.*\} (\S+)$', text, re.MULTILINE
    )
    engines = {engine: float(count) for engine, count in counts}
    assert len(engines) == (2 if kind == "data" else 1), text
    assert min(engines.values()) >= 10
