"""A digest of the files that a model was loaded from, which identifies it."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server.engine.checkpoints import Checkpoint

FILES = ("config.json", "*.safetensors")
SHA256 = re.compile("[0-9a-f]{64}")


def model_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the names and SHA-256 digests of the configuration and the weight files, in hexadecimal."""
    folder = checkpoint.folder
    files = sorted({file for pattern in FILES for file in folder.glob(pattern)})
    with ThreadPoolExecutor() as pool:  # hashing lets go of the interpreter's lock
        lines = [f"{file.name} {digest}\n" for file, digest in zip(files, pool.map(_sha256, files), strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(file: Path) -> str:
    # The hub's cache names large files by their digest.
    if file.is_symlink() and SHA256.fullmatch(name := file.resolve().name):
        return name
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
