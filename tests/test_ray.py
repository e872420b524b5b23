"""Ray Serve: replicas on two nodes answer as one server, and what dies is replaced."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.local_server import free_port
from qconf.run.folder import read_run
from tests.documented import blocks
from tests.ray_cluster import Cluster, running_cluster, wait_until
from tests.test_prometheus_live import Watched, running
from tests.test_shadow_live import total

HOW_TO = Path(__file__).parent.parent / "docs" / "how-to" / "ray.md"
ITEMS = 600
TASKS = ("--tasks", "demo_piqa,demo_boolq", "--include-path", "qconf/demo/tasks")
# In float32 sums in another order do not move a choice.
SETTINGS = {"demo": True, "engine_args": ["--dtype", "float32"]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster(SETTINGS) as cluster:
        yield cluster
        left = [*cluster.head.processes(), *cluster.other.processes()]
    assert not [each for each in left if each.is_running()]


def command(url: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "client.bench", "--url", url, *TASKS, "--out", str(out), "--quiet"]


def compared(cluster: Cluster) -> list[float]:
    """Return how many comparisons each replica has made."""
    return [total(f"http://{target}", "qconf_comparisons_total") for target in cluster.targets()]


@pytest.mark.skipif(not shutil.which("prometheus"), reason="Prometheus (Debian: prometheus) is not installed")
def test_prometheus_finds_all_replicas(cluster: Cluster, tmp_path: Path) -> None:
    (documented,) = (block.text for block in blocks(HOW_TO) if "scrape_configs" in block.text)
    config = documented.replace("http://ray-head:8000/llama", cluster.url)
    assert config != documented
    (tmp_path / "prometheus.yml").write_text(f"global: {{scrape_interval: 1s}}\n{config}", encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    url = f"http://{address}"
    with running("prometheus", *options, f"--web.listen-address={address}", ready=f"{url}/-/ready"):
        found = Watched(cluster.url, url, "", tmp_path)
        wait_until(
            lambda: len(found.query('qconf_engine_up{job="qconf", application="llama"}')) == 2, "both are scraped"
        )


def test_a_request_has_its_id_once(cluster: Cluster) -> None:
    reply = httpx.get(f"{cluster.url}/version", headers={"x-request-id": "order-7"})
    assert reply.headers.get_list("x-request-id") == ["order-7"]


def test_a_replica_whose_engine_has_died_is_replaced(cluster: Cluster) -> None:
    before = set(cluster.targets())
    (replica,) = cluster.other.replicas()
    (engine,) = (each for each in replica.children() if each.name().startswith("VLLM"))
    engine.kill()
    wait_until(lambda: not replica.is_running(), "the replica has ended")
    wait_until(lambda: len(cluster.targets()) == 2, "there are two replicas again")
    assert len(before & set(cluster.targets())) == 1


def test_a_node_dies_in_mid_replay_and_nothing_is_lost_or_doubled(cluster: Cluster, tmp_path: Path) -> None:
    before = sum(compared(cluster))
    subprocess.run(command(cluster.url, tmp_path / "whole"), check=True, capture_output=True)
    by_replica = compared(cluster)
    assert sum(by_replica) - before == ITEMS
    assert min(by_replica) > 0

    journal = tmp_path / "broken" / "journal.jsonl"
    process = subprocess.Popen(
        command(cluster.url, tmp_path / "broken"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > ITEMS // 10, "the replay is under way")
    cluster.other.kill()
    assert process.poll() is None
    printed, _ = process.communicate()
    assert process.returncode == 0, printed

    whole, broken = (read_run(tmp_path / name).items() for name in ("whole", "broken"))
    assert len(whole) == ITEMS
    for one, other in zip(whole, broken, strict=True):
        assert (other.task, other.doc_id, other.choices) == (one.task, one.doc_id, one.choices)
        assert other.base_logprob == pytest.approx(one.base_logprob, abs=1e-3)
        assert other.quantized_logprob == pytest.approx(one.quantized_logprob, abs=1e-3)
    wait_until(lambda: len(cluster.targets()) == 1, "the dead replica is no target any more")
