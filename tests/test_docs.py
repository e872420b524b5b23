"""The documentation: links lead somewhere, modules that are named exist, the README stays short."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from docs.markdown import anchor

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
)
README_LINES = 140


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings."""
    return {anchor(found) for found in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
            if heading:
                headings = anchors(page.parent / target if target else page)
                assert heading in headings, f"{page.relative_to(ROOT)} links to {target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m ((?:server|client|eval|demo|deploy|benchmarks|docs|tests)[\w.]*)", text)):
        assert importlib.util.find_spec(module.rstrip(".")), f"{page.relative_to(ROOT)} names {module}"
    for file in set(re.findall(r"`((?:qconf|server|client|eval|tests|benchmarks)/[\w/.-]+\.py)`", text)):
        assert (ROOT / file).is_file(), f"{page.relative_to(ROOT)} names {file}"
