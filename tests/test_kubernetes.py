"""The Kubernetes manifests: valid by Kubernetes' own schemas, true to the server, and in step with Compose."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml  # type: ignore[import-untyped]
from kubernetes_validate import ValidationError, latest_version, validate  # type: ignore[import-untyped]
from pydantic import ValidationError as WrongSetting
from pydantic_settings import CliApp

from qconf import __version__
from server.api.app import create_app
from server.api.work import Serving
from server.engine.engine import SHUTDOWN_SECONDS
from server.serve import LATE_SECONDS
from server.settings import Settings

Manifest = dict[str, Any]
Objects = dict[tuple[str, str], Manifest]

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "kubernetes"
README = (DEPLOY / "README.md").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Manifest] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
# The oldest release whose kubectl builds these folders, and the newest whose schemas there are.
RELEASES = ("1.27", latest_version())
DEPLOYMENT, SERVICE, MONITOR = ("Deployment", "qconf"), ("Service", "qconf"), ("PodMonitor", "qconf")


def documents(text: str) -> Objects:
    read: list[Manifest] = list(yaml.safe_load_all(text))
    found = {(each["kind"], each["metadata"]["name"]): each for each in read}
    assert len(found) == len(read)
    return found


def files(folder: Path) -> Objects:
    """Return the manifests as they are written."""
    names = [file for file in sorted(folder.glob("*.yaml")) if file.name != "kustomization.yaml"]
    return documents("\n---\n".join(file.read_text(encoding="utf-8") for file in names))


@cache
def built(folder: Path) -> Objects:
    """Return the manifests as kubectl sends them."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    version = output("kubectl", "version", "--client", "--output=json")
    if int(json.loads(version)["clientVersion"]["minor"].rstrip("+")) < 27:
        pytest.skip("kubectl is older than 1.27")
    return documents(output("kubectl", "kustomize", str(folder)))


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


VARIANTS: dict[str, Callable[[], Objects]] = {
    "files": lambda: files(FOLDER / "gpu"),
    "gpu": lambda: built(FOLDER / "gpu"),
    "cpu": lambda: built(FOLDER / "cpu"),
}


@pytest.fixture(params=VARIANTS)
def objects(request: pytest.FixtureRequest) -> Objects:
    return VARIANTS[request.param]()


def pod_of(objects: Objects) -> Manifest:
    pod: Manifest = objects[DEPLOYMENT]["spec"]["template"]["spec"]
    return pod


def server_of(objects: Objects) -> Manifest:
    (server,) = pod_of(objects)["containers"]
    assert isinstance(server, dict)
    return server


def fill_pod() -> Manifest:
    (manifest,) = documents((FOLDER / "fill.yaml").read_text(encoding="utf-8")).values()
    return manifest


def seconds(text: str) -> int:
    number, unit = int(text[:-1]), text[-1]
    return number * {"s": 1, "m": 60}[unit]


def amount(quantity: str | int) -> float:
    """Return a quantity as a number; Kubernetes' schemas accept any text."""
    match = re.fullmatch(r"(\d+)(m|Mi|Gi)?", str(quantity))
    assert match, quantity
    return int(match[1]) * {None: 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[match[2]]


@cache
def answered() -> set[str]:
    """Return the paths that the server answers to GET."""
    app = create_app(
        cast(Serving, SimpleNamespace(monitor=SimpleNamespace(metrics=None), admission=None)), max_body_bytes=1024
    )
    return {path for path, methods in app.openapi()["paths"].items() if "get" in methods}


def test_values_are_among_those_that_kubernetes_knows(objects: Objects) -> None:
    """Values that no other test checks; the schemas accept any text."""
    pod = pod_of(objects)
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert pod.get("tolerations", [toleration]) == [toleration]
    assert fill_pod()["spec"]["restartPolicy"] == "Never"
    claims = [each for (kind, _), each in objects.items() if kind == "PersistentVolumeClaim"]
    assert [each["spec"]["accessModes"] for each in claims] == [["ReadWriteOnce"]] * len(claims)


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_accepts_every_object(objects: Objects, release: str) -> None:
    own = [each for key, each in objects.items() if key != MONITOR]
    assert len(own) == 5
    for manifest in [*own, fill_pod()]:
        validate(manifest, release, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "replica"], 1),
        (["spec", "replicas"], "1"),
        (["spec", "template", "spec", "enableServiceLink"], False),
        (["spec", "template", "spec", "securityContext", "runAsNonRot"], True),
        (["spec", "template", "spec", "containers", 0, "readyProbe"], {}),
        (["spec", "template", "spec", "containers", 0, "livenessProbe", "httpGet", "paths"], "/health"),
    ],
)
def test_kubernetes_schemas_refuse_what_is_unknown_or_of_the_wrong_type(path: list[str | int], value: Any) -> None:
    changed: Any = copy.deepcopy(files(FOLDER / "gpu")[DEPLOYMENT])
    target = changed
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    with pytest.raises(ValidationError):
        validate(changed, RELEASES[-1], strict=True)


def test_no_object_names_a_namespace(objects: Objects) -> None:
    assert [key for key, each in objects.items() if "namespace" in each["metadata"]] == []


def test_labels_and_selectors_match(objects: Objects) -> None:
    labels = objects[DEPLOYMENT]["spec"]["template"]["metadata"]["labels"]
    selectors = [objects[DEPLOYMENT]["spec"]["selector"]["matchLabels"], objects[SERVICE]["spec"]["selector"]]
    if MONITOR in objects:
        selectors.append(objects[MONITOR]["spec"]["selector"]["matchLabels"])
    # A selector cannot be changed later, so no version belongs there.
    assert selectors == [{"app.kubernetes.io/name": "qconf"}] * len(selectors)
    assert labels.items() >= selectors[0].items()
    assert "labels" not in fill_pod()["metadata"]


@pytest.mark.parametrize("variant", ["gpu", "cpu"])
def test_every_object_has_the_recommended_labels(variant: str) -> None:
    objects = built(FOLDER / variant)
    expected = {"app.kubernetes.io/name": "qconf", "app.kubernetes.io/version": __version__}
    assert [each["metadata"]["labels"] for each in objects.values()] == [expected] * len(objects)
    assert objects[DEPLOYMENT]["spec"]["template"]["metadata"]["labels"] == expected


def test_every_file_is_used() -> None:
    named = {"gpu": set[str](), "cpu": set[str]()}
    for folder, used in named.items():
        kustomization = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        used |= set(kustomization["resources"]) | {patch["path"] for patch in kustomization.get("patches", [])}
        there = {file.name for file in (FOLDER / folder).iterdir()} - {"kustomization.yaml"}
        assert used - {"../gpu"} == there
    assert "../gpu" in named["cpu"]
    assert [each.name for each in FOLDER.iterdir() if each.is_file()] == ["fill.yaml"]
    assert "-f deploy/kubernetes/fill.yaml" in README


def test_the_service_leads_to_the_port_of_the_image(objects: Objects) -> None:
    (port,) = server_of(objects)["ports"]
    image = re.search(r"QCONF_HOST=0\.0\.0\.0 QCONF_PORT=(\d+)", DOCKERFILE)
    assert image
    assert port == {"name": "http", "containerPort": int(image[1])}
    service = objects[SERVICE]["spec"]
    assert (service["type"], service["ports"]) == ("ClusterIP", [{"name": "http", "port": 8000, "targetPort": "http"}])


@pytest.mark.parametrize("variant", ["files", "gpu"])
def test_prometheus_scrapes_as_its_own_configuration_says(variant: str) -> None:
    objects = VARIANTS[variant]()
    monitor = objects[MONITOR]
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    every, within = (prometheus["global"][key] for key in ("scrape_interval", "scrape_timeout"))
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"jobLabel", "selector", "podMetricsEndpoints"}
    assert monitor["spec"]["podMetricsEndpoints"] == [
        {"port": "http", "path": "/metrics", "interval": every, "scrapeTimeout": within}
    ]
    assert "/metrics" in answered()
    # Rules and dashboard select the job by this name.
    (job,) = (each["job_name"] for each in prometheus["scrape_configs"])
    labels = objects[DEPLOYMENT]["spec"]["template"]["metadata"]["labels"]
    assert labels[monitor["spec"]["jobLabel"]] == job


def test_probes_ask_what_the_server_answers(objects: Objects) -> None:
    server = server_of(objects)
    asked = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: get["path"] for name, get in asked.items()} == {
        "startup": "/ready",
        "readiness": "/ready",
        "liveness": "/health",
    }
    assert {get["path"] for get in asked.values()} <= answered()
    assert {get["port"] for get in asked.values()} == {server["ports"][0]["name"]}


def test_loading_a_pair_has_the_time_it_needs(objects: Objects) -> None:
    spec, server = objects[DEPLOYMENT]["spec"], server_of(objects)
    budget = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert budget >= 30 * 60
    assert budget >= seconds(COMPOSE["server-gpu"]["healthcheck"]["start_period"])
    # The image is pulled before.
    assert spec["progressDeadlineSeconds"] >= budget + 15 * 60


def test_a_server_that_hangs_is_not_killed_at_once(objects: Objects) -> None:
    probe = server_of(objects)["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_a_server_whose_engine_hangs_ends_by_itself_before_the_probe_kills_it(objects: Objects) -> None:
    """It says why in its last line, which a killed one cannot; no longer answering, it has this time to end."""
    probe = server_of(objects)["livenessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > LATE_SECONDS + SHUTDOWN_SECONDS


def test_running_requests_can_finish(objects: Objects) -> None:
    grace = pod_of(objects)["terminationGracePeriodSeconds"]
    assert grace >= Settings.model_fields["grace_seconds"].default + 10
    # A preStop hook would use up part of that time.
    assert "lifecycle" not in server_of(objects)
    assert grace == seconds(COMPOSE["server-gpu"]["stop_grace_period"])


def test_two_servers_never_share_a_gpu_or_a_volume(objects: Objects) -> None:
    spec = objects[DEPLOYMENT]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def settings_of(server: Manifest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return the server's settings from a container's variables and arguments."""
    for name in [name for name in os.environ if name.startswith("QCONF_")]:
        monkeypatch.delenv(name)
    for variable in server["env"]:
        if "value" in variable:
            monkeypatch.setenv(variable["name"], variable["value"])
    return CliApp.run(Settings, cli_args=server.get("args", []))


def test_the_server_understands_its_settings(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of(objects)
    ours = [each["name"] for each in server["env"] if each["name"].startswith("QCONF_")]
    assert {name.removeprefix("QCONF_").lower() for name in ours} <= set(Settings.model_fields)
    settings = settings_of(server, monkeypatch)
    assert settings.state_dir == Path("/state")
    assert [settings.model] != settings.quantized
    assert not settings.engine_args


def test_links_to_services_would_set_the_port(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pod_of(objects)["enableServiceLinks"] is False
    link = f"{objects[SERVICE]['metadata']['name'].upper()}_PORT"
    server = copy.deepcopy(server_of(objects))
    server["env"].append({"name": link, "value": "tcp://10.0.0.1:8000"})
    with pytest.raises(WrongSetting, match=r"\nport\n"):
        settings_of(server, monkeypatch)


def test_the_token_comes_from_a_secret_that_may_be_missing(objects: Objects) -> None:
    assert {kind for kind, _ in objects} <= {"Deployment", "Service", "PodMonitor", "PersistentVolumeClaim"}
    (token,) = (each for each in server_of(objects)["env"] if each["name"] == "HF_TOKEN")
    reference = token["valueFrom"]["secretKeyRef"]
    assert reference["optional"] is True
    assert f"secret generic {reference['name']} --from-literal={reference['key']}=" in README


def claims_of(pod: Manifest) -> set[str]:
    return {each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each}


def test_what_is_mounted_exists(objects: Objects) -> None:
    for pod in (pod_of(objects), fill_pod()["spec"]):
        mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
        assert sorted(mounted) == sorted(volume["name"] for volume in pod["volumes"])
    claims = {name for kind, name in objects if kind == "PersistentVolumeClaim"}
    assert claims_of(pod_of(objects)) == claims
    assert claims_of(fill_pod()["spec"]) <= claims


def test_models_are_filled_in_where_the_server_reads_them(objects: Objects) -> None:
    (filled,) = fill_pod()["spec"]["containers"][0]["volumeMounts"]
    (read,) = (mount for mount in server_of(objects)["volumeMounts"] if mount["mountPath"] == "/models")
    assert (filled["mountPath"], read["readOnly"]) == ("/models", True)
    claims = [
        next(each["persistentVolumeClaim"] for each in pod["volumes"] if each["name"] == mount["name"])
        for pod, mount in ((pod_of(objects), read), (fill_pod()["spec"], filled))
    ]
    assert claims[0] == claims[1]


def test_the_server_can_write_only_where_it_must(objects: Objects) -> None:
    pod, server = pod_of(objects), server_of(objects)
    written = {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"] if not mount.get("readOnly")}
    assert set(written) == {"/cache", "/state", "/tmp", "/dev/shm"}
    assert "ENV HOME=/cache " in DOCKERFILE
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    shared = volumes[written["/dev/shm"]]["emptyDir"]
    assert COMPOSE["server-gpu"]["shm_size"] == "1g"
    assert shared == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert set(volumes[written["/tmp"]]["emptyDir"]) == {"sizeLimit"}


def test_pods_are_contained(objects: Objects) -> None:
    user = re.search(r"useradd .*--uid (\d+)", DOCKERFILE)
    assert user
    for pod in (pod_of(objects), fill_pod()["spec"]):
        context, (container,) = pod["securityContext"], pod["containers"]
        assert context["runAsNonRoot"] is True
        assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(user[1])}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False


def test_resources_are_bounded(objects: Objects) -> None:
    for pod in (pod_of(objects), fill_pod()["spec"]):
        resources = pod["containers"][0]["resources"]
        assert {"cpu", "memory"} <= set(resources["requests"])
        assert "memory" in resources["limits"]
        for name, limit in resources["limits"].items():
            assert amount(resources["requests"].get(name, limit)) <= amount(limit)
    claims = [each for (kind, _), each in objects.items() if kind == "PersistentVolumeClaim"]
    assert all(amount(each["spec"]["resources"]["requests"]["storage"]) >= 2**30 for each in claims)


def test_why_a_server_ended_can_be_read_in_its_status(objects: Objects) -> None:
    assert server_of(objects)["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(
    ("variant", "service"), [("files", "server-gpu"), ("gpu", "server-gpu"), ("cpu", "server-cpu")]
)
def test_images_are_those_of_compose(variant: str, service: str) -> None:
    server = server_of(VARIANTS[variant]())
    assert server["image"] == COMPOSE[service]["image"]
    assert server["imagePullPolicy"] == "IfNotPresent"
    assert re.fullmatch(r"[\w/-]+:\d+\.\d+\.\d+", fill_pod()["spec"]["containers"][0]["image"])


def test_the_gpu_variant_has_one_gpu() -> None:
    objects = files(FOLDER / "gpu")
    assert server_of(objects)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "tolerations" in pod_of(objects)


def test_the_cpu_variant_needs_neither_gpu_nor_operator_nor_models() -> None:
    objects = built(FOLDER / "cpu")
    assert server_of(objects)["args"] == ["--demo"]
    assert "nvidia" not in json.dumps(list(objects.values()))
    assert objects.keys() == built(FOLDER / "gpu").keys() - {MONITOR}


def test_patches_change_only_what_is_there() -> None:
    """A patch names only what exists: kubectl would add the rest."""
    server = server_of(files(FOLDER / "gpu"))
    patch = server_of(files(FOLDER / "cpu"))
    assert patch["name"] == server["name"]
    removed = {each["name"] for each in patch["env"] if each.get("$patch") == "delete"}
    assert removed <= {each["name"] for each in server["env"]}
    assert set(patch["resources"]["limits"]) <= set(server["resources"]["limits"])
    (image,) = yaml.safe_load((FOLDER / "cpu" / "kustomization.yaml").read_text(encoding="utf-8"))["images"]
    assert image["name"] == server["image"]


def test_the_readme_loads_the_rules_as_they_are(tmp_path: Path) -> None:
    (command,) = re.findall(r"^```console[^\n]*\n(for .*?)\n```$", README, re.MULTILINE | re.DOTALL)
    stand_in = tmp_path / "kubectl"
    stand_in.write_text("#!/bin/sh\necho ---\nexec cat\n")
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", command],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = documents(done.stdout.removeprefix("---\n"))
    rules = {file.stem: yaml.safe_load(file.read_text()) for file in (DEPLOY / "prometheus" / "rules").glob("*.yml")}
    assert rules
    assert {key: each["spec"] for key, each in loaded.items()} == {
        ("PrometheusRule", f"qconf-{name}"): rule for name, rule in rules.items()
    }
    assert {each["apiVersion"] for each in loaded.values()} == {"monitoring.coreos.com/v1"}


def test_the_readme_serves_another_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    own = tmp_path / "kubernetes" / "own"
    own.mkdir(exist_ok=True)
    (own / "kustomization.yaml").write_text(example)
    objects, before = built(own), built(FOLDER / "gpu")
    assert objects.keys() == before.keys()
    validate(objects[DEPLOYMENT], RELEASES[-1], strict=True)
    server = server_of(objects)
    assert re.fullmatch(r"\S+/qconf-server:\S+", server["image"])
    settings, default = settings_of(server, monkeypatch), settings_of(server_of(before), monkeypatch)
    assert settings.model != default.model
    assert settings.quantized != default.quantized
    assert settings.engine_args
