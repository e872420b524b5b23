"""The rules for Prometheus: valid, covered by promtool's unit tests, and explained in the runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "deploy" / "prometheus"
RUNBOOK = "docs/runbook.md"
RULE_FILES = sorted((CONFIG / "rules").glob("*.yml"))
UNIT_TESTS = sorted((CONFIG / "tests").glob("*.yml"))

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (package prometheus) is missing")
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool (package prometheus-alertmanager) is missing"
)


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


GROUPS: list[dict[str, Any]] = [group for file in RULE_FILES for group in load(file)["groups"]]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = [rule for rule in RULES if "record" in rule]


def output(*command: str | Path) -> str:
    """Return a command's output, after checking that it succeeds."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout
    return run.stdout


@needs_promtool
def test_the_configuration_is_valid() -> None:
    printed = output("promtool", "check", "config", "--lint=all", "--lint-fatal", CONFIG / "prometheus.yml")
    assert f"{len(RULE_FILES)} rule files found" in printed


@needs_promtool
def test_the_rules_are_valid() -> None:
    printed = output("promtool", "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert sum(int(number) for number in re.findall(r"SUCCESS: (\d+) rules found", printed)) == len(RULES)


@needs_promtool
@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_the_rules_do_what_their_unit_tests_say(file: Path) -> None:
    assert "SUCCESS" in output("promtool", "test", "rules", file)


@needs_amtool
def test_alertmanager_is_configured() -> None:
    assert "SUCCESS" in output("amtool", "check-config", CONFIG / "alertmanager.yml")


def test_prometheus_reads_these_rules_and_knows_alertmanager() -> None:
    config = load(CONFIG / "prometheus.yml")
    assert RULE_FILES
    assert sorted(file for pattern in config["rule_files"] for file in CONFIG.glob(pattern)) == RULE_FILES
    assert [job["job_name"] for job in config["scrape_configs"]] == ["qconf"]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["qconf:8000"]}]
    assert config["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["for"]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "action", "runbook_url"}
    assert all(text.strip() for text in alert["annotations"].values())
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page == RUNBOOK
    assert anchor in anchors(RUNBOOK)
    # A threshold needs the value next to it; an alert about missing data has no value.
    assert "$value" in alert["annotations"]["description"] or alert["alert"] == "QconfAbsent"


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them of single words."""
    return {heading.strip().lower() for heading in re.findall(r"^#+ (\w+)$", (ROOT / page).read_text(), re.MULTILINE)}


@pytest.mark.parametrize("name", sorted({alert["alert"] for alert in ALERTS}))
def test_an_alert_is_seen_firing_and_not_firing(name: str) -> None:
    cases = [case for file in UNIT_TESTS for test in load(file)["tests"] for case in test.get("alert_rule_test", [])]
    fires = [bool(case.get("exp_alerts")) for case in cases if case["alertname"] == name]
    assert set(fires) == {True, False}


def test_each_variant_of_an_alert_is_seen_firing() -> None:
    def variant(name: str, labels: dict[str, str]) -> tuple[str, str | None]:
        return name, labels.get("cause")

    seen = {
        variant(case["alertname"], expected["exp_labels"])
        for file in UNIT_TESTS
        for test in load(file)["tests"]
        for case in test.get("alert_rule_test", [])
        for expected in case.get("exp_alerts") or []
    }
    assert seen == {variant(alert["alert"], alert["labels"]) for alert in ALERTS}


@pytest.mark.parametrize("rule", RECORDED, ids=lambda rule: rule["record"])
def test_a_recorded_value_is_named_by_convention_and_tested(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"instance(_[a-z]+)*:qconf_[a-z0-9_]+:[a-z0-9_]+", rule["record"])
    assert all(kept.startswith("job, instance") for kept in re.findall(r"\bby \(([^)]*)\)", rule["expr"]))
    asked = [
        case["expr"] for file in UNIT_TESTS for test in load(file)["tests"] for case in test.get("promql_expr_test", [])
    ]
    assert any(rule["record"] in names(expr) for expr in asked)


def names(expr: str) -> set[str]:
    """Return the recorded values that an expression uses."""
    return set(re.findall(r"\binstance\w*:\w+:\w+", expr))


def test_what_alerts_and_the_runbook_ask_for_is_recorded() -> None:
    recorded = {rule["record"] for rule in RECORDED}
    assert names("\n".join(rule["expr"] for rule in RULES)) <= recorded
    assert names((ROOT / RUNBOOK).read_text()) <= recorded


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_unit_tests_evaluate_the_groups_in_their_order(file: Path) -> None:
    alerting = [group["name"] for group in GROUPS if "alert" in group["rules"][0]]
    recording = [group["name"] for group in GROUPS if "record" in group["rules"][0]]
    assert load(file)["group_eval_order"] == recording + alerting


@needs_promtool
def test_comparisons_of_alerts_can_be_made_to_return_their_truth(tmp_path: Path) -> None:
    rules = [{**alert, "expr": truth(alert["expr"])} for alert in ALERTS if alert["alert"] != "QconfAbsent"]
    assert not [rule["alert"] for rule in rules if re.search(r"unless|absent", rule["expr"])]
    assert all("bool" in rule["expr"] for rule in rules)
    file = tmp_path / "truth.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "truth", "rules": rules}]}))
    output("promtool", "check", "rules", file)


def truth(expr: str) -> str:
    """Return the expression with every comparison as 0 or 1, so that it has a value wherever it has data."""
    changed, comparisons = re.subn(r" (>=|==|>) (?=on \(|[0-9])", r" \1 bool ", expr)
    outside_selectors = re.sub(r"\{[^}]*\}", "", expr)
    assert comparisons == len(re.findall(r"[<>=!]=?", outside_selectors))
    return changed
