"""``python -m benchmarks.shadow``: what mirroring costs the traffic that is mirrored.

Three proxies, nginx as deploy/shadow/nginx.conf has it, stand before one primary: two without the mirror, whose
difference is noise, and one that mirrors every call to a server of the demo pair. A client calls them in turn on kept
connections. All of it runs on this machine and shares its cores; scoring, where it takes part, slows down all three.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.load import request
from demo.local_server import running_server
from tests.mirror import nginx_proxy, primary

ANSWER = b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" clay"}]}\n'
PROXIES = {"plain": False, "plain again": False, "mirrored": True}
WARM_UP = 50
START_SECONDS = 10
PAUSE_SECONDS = 0.05


def main() -> None:
    """Print latencies through each proxy, of a primary that answers at once and of one that takes some time."""
    parser = argparse.ArgumentParser(description="What mirroring costs the traffic that is mirrored.")
    parser.add_argument("--requests", type=int, default=1000, help="through each of the three proxies, of each primary")
    parser.add_argument("--primary-ms", type=float, default=20, help="time that the slower primary takes")
    parser.add_argument("--mirror-to", help=argparse.SUPPRESS)
    options, engine = parser.parse_known_args()
    if options.mirror_to:
        return keep_sending(options.mirror_to)
    print(f"{'calls scored':14}{'primary':>9}   {'proxy':14}{'p50':>8}{'p99':>11}")
    for scored, rate in (("none", "/observe=1"), ("all", "1")):
        with running_server("--demo", "--shadow-rate", rate, *engine) as server:
            for wait in (0, options.primary_ms):
                for each, seconds in measured(server.url, options.requests, wait / 1e3).items():
                    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
                    print(f"{scored:14}{wait:6g} ms   {each:14}{p50:5.2f} ms{p99:8.2f} ms", flush=True)
            print(f"{scored:14}{outcomes(server.url)}")
            if scored == "all":
                print_comparisons(server.url, options.requests // 3)


def print_comparisons(qconf: str, requests: int) -> None:
    """Print the latencies of comparisons that clients wait for, without and with mirrored calls always waiting."""
    numbers = itertools.count()

    def compared(client: httpx.Client) -> list[float]:
        seconds = []
        for _ in range(requests):
            started = time.perf_counter()
            client.post("/compare", json=request(next(numbers))).raise_for_status()
            seconds.append(time.perf_counter() - started)
        return seconds

    with httpx.Client(base_url=qconf, timeout=60) as client:
        compared(client)
        alone = compared(client)
        with subprocess.Popen([sys.executable, "-m", "benchmarks.shadow", "--mirror-to", qconf]) as sender:
            time.sleep(START_SECONDS)
            beside = compared(client)
            sender.terminate()
    for name, seconds in (("alone", alone), ("mirrored calls wait", beside)):
        p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
        print(f"/compare, {name:30}{p50:5.2f} ms{p99:8.2f} ms")


def keep_sending(qconf: str) -> None:
    """Keep mirrored calls waiting, until terminated."""
    with httpx.Client(base_url=qconf) as client:
        for number in itertools.count():
            prompt = f"Question {number}: What is a cup made of?\nAnswer:" * 4
            reply = client.post("/mirror/v1/completions", json={"prompt": prompt})
            if reply.json()["outcome"] == "queue_full":
                time.sleep(PAUSE_SECONDS)


def measured(qconf: str, requests: int, wait: float) -> dict[str, list[float]]:
    """Return the seconds that each request took through each proxy."""
    seconds: dict[str, list[float]] = {name: [] for name in PROXIES}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # nginx's workers are another user
        behind = stack.enter_context(primary(ANSWER, wait))
        clients = {}
        for name, mirror in PROXIES.items():
            place = folder / name.replace(" ", "-")
            url = stack.enter_context(nginx_proxy(place, behind.url, qconf, mirror=mirror)).url
            clients[name] = stack.enter_context(httpx.Client(base_url=url))
        for number in range(-WARM_UP, requests):
            body = json.dumps({"model": "m", "prompt": f"Question {number}: What is a cup made of?\nAnswer:"})
            for name, client in clients.items():
                started = time.perf_counter()
                reply = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
                elapsed = time.perf_counter() - started
                assert reply.content == ANSWER
                if number >= 0:
                    seconds[name].append(elapsed)
    return seconds


def outcomes(qconf: str) -> str:
    """Return what became of the mirrored calls."""
    families = text_string_to_metric_families(httpx.get(f"{qconf}/metrics").text)
    samples = [each for family in families for each in family.samples if each.name == "qconf_shadow_calls_total"]
    return ", ".join(f"{each.value:.0f} {each.labels['outcome']}" for each in samples if each.value)


if __name__ == "__main__":
    main()
