"""Digests of checkpoints: of a folder, and of what lies in the hub's cache."""

import hashlib
from pathlib import Path

import pytest

from server.engine.checkpoints import Checkpoint
from server.engine.digest import model_digest

CONFIG, WEIGHTS = b'{"a": 1}', b"weights"


def checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    return Checkpoint(name, revision, {}, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "README.md").write_text("about")
    return tmp_path


def expected() -> str:
    lines = [
        f"{name} {hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("config.json", CONFIG), ("model.safetensors", WEIGHTS))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_it_covers_configuration_and_weights_and_nothing_else(folder: Path) -> None:
    assert model_digest(checkpoint(str(folder))) == expected()
    (folder / "README.md").write_text("changed")
    assert model_digest(checkpoint(str(folder))) == expected()
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert model_digest(checkpoint(str(folder))) != expected()


def test_a_model_of_the_hub_has_the_digest_of_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache as the hub's client lays it out: snapshots link to blobs, large ones named by their SHA-256."""
    repository = tmp_path / "models--some--model"
    snapshot, blobs = repository / "snapshots" / "c0ffee", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    for name, content, blob in (
        ("config.json", CONFIG, "0" * 40),
        ("model.safetensors", WEIGHTS, hashlib.sha256(WEIGHTS).hexdigest()),
    ):
        (blobs / blob).write_bytes(content)
        (snapshot / name).symlink_to(blobs / blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_digest(checkpoint("some/model")) == expected()
    with pytest.raises(FileNotFoundError, match="other/model was loaded, but is not in the hub's cache"):
        model_digest(checkpoint("other/model"))
