"""Real Prometheus and Alertmanager watch a real server while the real client replays traffic, as in production.

The demo pair's items are drawn at random into a reference and into traffic like it; then traffic is of one task alone.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from demo.local_server import free_port, running_server
from qconf.demo import TASKS
from server.shadow.sampling import COMPLETIONS

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
WINDOW = 600
"""All of a replay: the bench sends long items first, so that part of one is unlike the whole."""
MIRRORED = 100
SECONDS = 120

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("prometheus-alertmanager")),
    reason="Prometheus and Alertmanager (Debian: prometheus, prometheus-alertmanager) are not installed",
)


@dataclass(frozen=True)
class Watched:
    """A server, and the programs that watch it."""

    server: str
    prometheus: str
    alertmanager: str
    folder: Path

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return Prometheus' answer now."""
        reply = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", (expression, reply)
        result: list[dict[str, Any]] = reply["data"]["result"]
        return result

    def number(self, expression: str) -> float:
        """Return the only value of an expression; NaN where it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else float("nan")

    def firing(self) -> set[str]:
        """Return the names of the alerts that are firing."""
        return {each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')}

    def replay(self, name: str, items: list[dict[str, Any]]) -> None:
        """Send items with the bench, and wait until Prometheus has counted all."""
        before = self.number("qconf_comparisons_total")
        bench(self.server, self.folder / name, items)
        wait_until(lambda: self.number("qconf_comparisons_total") == before + len(items), "all is scraped")


def bench(url: str, out: Path, items: list[dict[str, Any]], *more: str | Path) -> None:
    data = out.with_suffix(".jsonl")
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    command = [sys.executable, "-m", "client.bench", "--url", url, "--data", data, "--out", out, "--quiet", *more]
    subprocess.run(command, check=True, capture_output=True)


def mirror(url: str, items: list[dict[str, Any]]) -> None:
    """Send prompts as a gateway mirrors them, and a call that cannot be scored."""
    prompts = [*(item["prompt"] for item in items), [10**9]]
    with httpx.Client(base_url=url, headers={"x-qconf-source": "gateway"}) as client:
        for prompt in prompts:
            assert client.post(COMPLETIONS, json={"prompt": prompt}).json() == {"outcome": "queued"}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not so after {SECONDS} s: {what}"
        time.sleep(0.5)


def demo_items() -> dict[str, list[dict[str, Any]]]:
    """Return the demo's items that have choices, by task."""
    found = {}
    for file in sorted((TASKS).glob("*/items.jsonl")):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if "choices" in lines[0]:
            found[file.parent.name] = [{name: line[name] for name in ("prompt", "choices", "label")} for line in lines]
    return found


@contextmanager
def running(*command: str, ready: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers(ready), f"{command[0]} answers at {ready}")
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            yield
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def configured(folder: Path, targets: list[dict[str, Any]], alertmanager: str) -> Path:
    """Return the shipped configuration with other addresses, a second between scrapes, and alerts that fire at once."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alertmanager.removeprefix("http://")]
    (job,) = config["scrape_configs"]
    job["static_configs"] = targets
    for source in (DEPLOY / "prometheus").glob("rules/*.yml"):
        rules = yaml.safe_load(source.read_text(encoding="utf-8"))
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
        target = folder / "rules" / source.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(yaml.safe_dump(rules), encoding="utf-8")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "prometheus.yml"


@contextmanager
def running_prometheus(folder: Path, targets: list[dict[str, Any]], alertmanager: str) -> Iterator[str]:
    """Start Prometheus, with the shipped rules, on these ``static_configs``; yields its address."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={configured(folder, targets, alertmanager)}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={address}",
    ]
    with running(*command, ready=f"http://{address}/-/ready"):
        yield f"http://{address}"


@pytest.fixture(scope="module")
def watched(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Start all of it, and send traffic like the reference."""
    folder = tmp_path_factory.mktemp("watched")
    everything = [item for items in demo_items().values() for item in items]
    random.Random(0).shuffle(everything)
    text = folder / "text.txt"
    text.write_text("\n".join(item["prompt"] for item in everything[:200]), encoding="utf-8")
    bench(server_url, folder / "reference", everything[:700], "--corpus", text, "--window", "32", "--limit", "100")
    alertmanager = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        reference = ["--reference", str(folder / "reference"), "--window-comparisons", str(WINDOW)]
        mirrored = ["--shadow-rate", "1", "--shadow-source", "gateway", "--shadow-record", str(folder / "calls")]
        server = stack.enter_context(running_server("--demo", *reference, *mirrored)).url
        stack.enter_context(
            running(
                "prometheus-alertmanager",
                f"--config.file={DEPLOY / 'prometheus' / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={alertmanager.removeprefix('http://')}",
                "--cluster.listen-address=",
                ready=f"{alertmanager}/-/ready",
            )
        )
        targets = [{"targets": [server.removeprefix("http://")]}]
        prometheus = stack.enter_context(running_prometheus(folder, targets, alertmanager))
        found = Watched(server, prometheus, alertmanager, folder)
        wait_until(lambda: found.number("qconf_comparisons_total") == 0, "the first scrape")
        found.replay("alike", everything[700 : 700 + WINDOW])
        mirror(server, everything[:MIRRORED])
        wait_until(lambda: found.number("sum(qconf_shadow_scored_total)") == MIRRORED, "mirrored calls are scored")
        yield found


def test_traffic_like_the_reference_is_no_drift(watched: Watched) -> None:
    distances = watched.query("qconf_drift_psi")
    assert len(distances) == 4
    assert watched.query("qconf_drift_psi > on (instance, unit, quantity) qconf_drift_psi_threshold") == []
    samples = watched.query('qconf_drift_samples{side="window"}')
    assert [float(each["value"][1]) for each in samples] == [WINDOW] * 4
    # Alerts of the service fire at once here, as on a machine that is busy for a moment.
    of_models = {rule["alert"] for rule in rules("alert") if rule["group"] in ALERTS_OF_MODELS}
    assert watched.firing() & of_models == set()


@pytest.fixture(scope="module")
def shifted(watched: Watched) -> Watched:
    """Send traffic of a single task."""
    watched.replay("boolq", 2 * demo_items()["demo_boolq"])
    return watched


def test_another_mix_fires_the_alert_and_alertmanager_has_it(shifted: Watched) -> None:
    wait_until(lambda: "QconfDrift" in shifted.firing(), "QconfDrift fires")
    assert "QconfDown" not in shifted.firing()

    def received() -> list[dict[str, Any]]:
        alerts: list[dict[str, Any]] = httpx.get(f"{shifted.alertmanager}/api/v2/alerts").json()
        return [alert for alert in alerts if alert["labels"]["alertname"] == "QconfDrift"]

    wait_until(lambda: bool(received()), "Alertmanager has it")
    assert {alert["labels"]["unit"] for alert in received()} == {"item"}
    assert all(alert["annotations"]["summary"] and alert["annotations"]["action"] for alert in received())


ALERTS_OF_MODELS = ("qconf-alerts-confidence", "qconf-alerts-drift")


def rules(kind: str) -> list[dict[str, Any]]:
    """Return the rules that record or alert, with the names of their groups."""
    files = (DEPLOY / "prometheus" / "rules").glob("*.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule | {"group": group["name"]} for group in groups for rule in group["rules"] if kind in rule]


def test_every_recording_rule_has_data(shifted: Watched) -> None:
    names = [rule["record"] for rule in rules("record")]
    assert len(names) > 10

    def empty() -> list[str]:
        return [name for name in names if not shifted.query(name)]

    wait_until(lambda: not empty(), "every recording rule has data")


def test_every_alert_has_its_data(shifted: Watched) -> None:
    """An alert that does not fire has no data; with "bool" behind each comparison it has, where its operands do."""
    for rule in rules("alert"):
        assert (rule["alert"] == "QconfAbsent") == ("absent" in rule["expr"])
        expression = truth(rule["expr"])
        assert expression != rule["expr"] or rule["alert"] == "QconfAbsent"
        assert bool(shifted.query(expression)) == (rule["alert"] != "QconfAbsent"), rule["alert"]


def truth(expression: str) -> str:
    """Return the expression with every comparison as 0 or 1."""
    return re.sub(r" (>|>=|==|<|<=|!=) (?=on |\d|\w)", r" \1 bool ", expression)


def expressions() -> list[tuple[str, str]]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "qconf.json").read_text(encoding="utf-8"))
    panels = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return panels + [("annotation", each["expr"]) for each in dashboard["annotations"]["list"] if "expr" in each]


def chosen(expression: str, *, instance: str = ".*", variant: str = ".*") -> str:
    """Return the dashboard's expression with its variables' values; all of them where none is named."""
    variables = {"__rate_interval": "5m", "job": "qconf", "model": ".*", "instance": instance, "variant": variant}
    for name, value in variables.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize(("title", "expression"), expressions())
def test_every_panel_has_data(shifted: Watched, title: str, expression: str) -> None:
    expression = chosen(expression)
    wait_until(lambda: bool(shifted.query(expression)), f"{title} has data")
    values = [float(each["value"][1]) for each in shifted.query(expression)]
    assert not all(value != value for value in values), values


def test_the_documentation_says_how_to_ask_and_prometheus_answers(shifted: Watched) -> None:
    text = (ROOT / "docs/how-to/monitor.md").read_text(encoding="utf-8")
    examples = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    queries = [query.strip() for block in examples for query in re.split(r"^#.*$", block, flags=re.MULTILINE)]
    queries = [query for query in queries if query]
    assert len(queries) >= 8
    for query in queries:
        assert shifted.query(query), query
