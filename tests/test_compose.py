"""The Compose file is accepted, pinned, and opens nothing to other machines."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

FOLDER = Path(__file__).parent.parent / "deploy"
FILE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
SERVERS = ("server-gpu", "server-cpu")


def config(*options: str, **variables: str) -> dict[str, Any]:
    """Return the file as docker-compose understands it."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    ours = re.compile("QCONF_|COMPOSE_|HF_|PROMETHEUS_|ALERTMANAGER_|GRAFANA_")
    clean = {name: value for name, value in os.environ.items() if not ours.match(name)}
    command = ["docker-compose", "--file", str(FOLDER / "compose.yaml"), *options, "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean | variables)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = yaml.safe_load(done.stdout)
    return read


def variables_of(service: dict[str, Any]) -> dict[str, str | None]:
    given = service.get("environment", {})
    if isinstance(given, dict):
        return given
    pairs = (entry.partition("=") for entry in given)
    return {name: value if sign else None for name, sign, value in pairs}


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_compose_accepts_the_file(profile: str) -> None:
    services = config("--profile", profile)["services"]
    assert services.keys() >= {f"server-{profile}", "prometheus", "alertmanager", "grafana"}
    assert services[f"server-{profile}"]["profiles"] == [profile]
    # Prometheus asks qconf:8000, whichever server runs.
    assert services[f"server-{profile}"]["networks"]["default"]["aliases"] == ["qconf"]


def test_arguments_and_models_reach_the_server() -> None:
    assert not config("--profile", "cpu")["services"]["server-cpu"].get("command")
    told = config("--profile", "cpu", QCONF_ARGS="--max-model-len 512", QCONF_MODEL="base")["services"]["server-cpu"]
    assert (told["command"], told["environment"]["QCONF_MODEL"]) == ("--max-model-len 512", "base")


def test_folders_replace_empty_volumes() -> None:
    assert "models:/models:ro" in config()["services"]["server-gpu"]["volumes"]
    told = config(QCONF_MODELS_FOLDER="/srv/models", QCONF_REFERENCE_FOLDER="/srv/run")["services"]["server-gpu"]
    assert {"/srv/models:/models:ro", "/srv/run:/reference:ro"} <= set(told["volumes"])


def test_the_gpu_is_the_default() -> None:
    lines = (FOLDER / ".env").read_text(encoding="utf-8").splitlines()
    assert "COMPOSE_PROFILES=gpu" in lines
    assert "gpu" in SERVICES["server-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"]


def test_the_file_knows_every_variable_of_env() -> None:
    text = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
    offered = re.findall(r"^#?([A-Z_]+)=", (FOLDER / ".env").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(offered) > 5
    assert [name for name in offered if not name.startswith("COMPOSE_") and name not in text] == []


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_are_pinned_contained_and_watched(name: str) -> None:
    service = SERVICES[name]
    if "build" not in service:
        assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["cap_drop"] == ["ALL"]
    assert not service.get("privileged", False)
    assert service["ports"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in service["ports"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_has_a_password(name: str) -> None:
    secret = re.compile("PASSWORD|SECRET|TOKEN|KEY", re.IGNORECASE)
    given = {key: value for key, value in variables_of(SERVICES[name]).items() if secret.search(key)}
    assert all(value is None for value in given.values()), given


@pytest.mark.parametrize("name", SERVERS)
def test_servers_can_write_only_where_they_must(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert {"cache:/cache", "state:/state"} <= set(service["volumes"])
    assert variables_of(service)["QCONF_STATE_DIR"] == "/state"


def test_configuration_that_is_mounted_exists() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).is_dir(), source
