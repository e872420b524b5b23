"""Imports go one way: server, client and eval import the shared core and not each other."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from setuptools import find_namespace_packages  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[1]
OWN = {"qconf", "server", "client", "eval", "demo", "deploy", "benchmarks", "docs", "tests"}
MAY_IMPORT = {
    "qconf": {"qconf"},
    "server": {"qconf", "server"},
    "client": {"qconf", "client"},
    "eval": {"qconf", "eval"},
}
VLLM_ROOM = ROOT / "server" / "engine"
PLUGIN = ROOT / "qconf" / "vllm_plugin.py"
"""vLLM calls it, so vLLM is there."""


def imported(file: Path) -> Iterator[str]:
    """Yield the top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import, expected absolute ones"
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_the_core_and_themselves(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        found = OWN & set(imported(file)) - MAY_IMPORT[package]
        assert not found, f"{file.relative_to(ROOT)} imports {found}"


def test_only_the_engine_imports_vllm() -> None:
    for package in MAY_IMPORT:
        for file in (ROOT / package).rglob("*.py"):
            if not file.is_relative_to(VLLM_ROOM) and file != PLUGIN:
                assert "vllm" not in set(imported(file)), f"{file.relative_to(ROOT)} imports vLLM"


def test_only_deploy_ray_imports_ray() -> None:
    for package in OWN:
        for file in (ROOT / package).rglob("*.py"):
            if not file.is_relative_to(ROOT / "deploy" / "ray"):
                assert "ray" not in set(imported(file)), f"{file.relative_to(ROOT)} imports Ray"


def test_nothing_generic_is_installed_at_the_top_level() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = find_namespace_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert {name.partition(".")[0] for name in found} == {"qconf", "server", "client", "eval"}
