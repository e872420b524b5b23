"""The dashboard is what its generator says, and Grafana and Prometheus can make sense of it."""

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.grafana.generate import OUT, dashboard_json
from server.shadow.sources import MIRROR
from tests.test_monitor import monitor, values
from tests.test_monitor_variants import VARIANTS, comparisons, recorded_with_w8, texts

PROVISIONING = OUT.parent.parent / "provisioning"
DASHBOARD: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [
    annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]
]
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")


def test_the_file_is_what_the_generator_writes() -> None:
    assert OUT.read_text(encoding="utf-8") == dashboard_json(), "python -m deploy.grafana.generate rewrites it"


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_every_panel_says_what_it_shows() -> None:
    assert len(PANELS) > 30
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)), panel["title"]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_our_metrics_of_the_chosen_instances(expression: str) -> None:
    selectors = SELECTOR.findall(expression)
    names = {name for name, _ in selectors}
    ours = {name for name in names if name.startswith(("qconf_", "vllm:")) or name == "ALERTS"}
    assert ours
    assert names <= ours | {"up"}
    assert all('instance=~"$instance"' in labels for _, labels in selectors)
    # A metric without braces would select every instance.
    assert not re.findall(r"\b(?:qconf_|vllm:)\w+|\bALERTS\b", SELECTOR.sub("", expression))


@pytest.fixture(scope="module")
def with_variant(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of the series that have the label ``variant``."""
    folder = tmp_path_factory.mktemp("variants")
    reference = recorded_with_w8(folder / "reference")
    watched = monitor(reference, variants=VARIANTS, sources=[MIRROR])
    for comparison in comparisons(folder):
        watched.add(comparison)
    for text in texts():
        watched.add_mirrored(MIRROR, text)
    return {name for name, labels in values(watched) if "variant" in dict(labels)}


def test_all_metrics_of_a_variant_and_no_others_are_those_of_the_chosen_variants(with_variant: set[str]) -> None:
    selectors = {selector for expression in EXPRESSIONS for selector in SELECTOR.findall(expression)}
    assert len({name for name, _ in selectors} & with_variant) > 20
    for name, labels in selectors:
        assert ('variant=~"$variant"' in labels) == (name in with_variant), name


def test_lines_of_a_variant_name_it() -> None:
    lines = [target for panel in PANELS if panel["type"] == "timeseries" for target in panel["targets"]]
    of_variants = [target for target in lines if "$variant" in target["expr"]]
    assert len(of_variants) > 10
    assert all("{{variant}}" in target["legendFormat"] for target in of_variants)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_can_parse_every_expression(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "5m", "$instance": ".*", "$variant": ".*", "$model": ".*", "$job": "qconf"}
    rules = []
    for number, expression in enumerate(EXPRESSIONS):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"expression:{number}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EXPRESSIONS)} rules found" in done.stdout


def test_everything_asks_the_data_source_that_is_provisioned() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    choice = next(one for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource")
    assert (choice["query"], choice["current"]["value"]) == (source["type"], source["uid"])
    asked = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert asked == {f"${{{choice['name']}}}"}


def test_variables_that_expressions_use_exist() -> None:
    used = set(re.findall(r"\$(\w+)", " ".join(EXPRESSIONS))) - {"__rate_interval"}
    assert used == {one["name"] for one in DASHBOARD["templating"]["list"]} - {"datasource"}


def test_the_folder_of_dashboards_is_where_compose_mounts_it() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "qconf.yaml").read_text())["providers"]
    grafana = yaml.safe_load((OUT.parents[2] / "compose.yaml").read_text())["services"]["grafana"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
