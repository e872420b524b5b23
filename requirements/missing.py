"""Print the entries of a lock whose packages are not installed: ``python missing.py LOCK``."""

import re
import sys
from importlib import metadata
from pathlib import Path


def missing(lock: str, installed: set[str]) -> str:
    """Return the lock's entries, with their hashes, that name none of the installed packages."""
    entries = re.findall(r"^[^\s#].*(?:\n[ \t].*)*\n", lock, re.MULTILINE)
    return "".join(entry for entry in entries if canonical(entry.split("==")[0]) not in installed)


def canonical(name: str) -> str:
    """Return a package's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


if __name__ == "__main__":
    installed = {canonical(distribution.name) for distribution in metadata.distributions()}
    sys.stdout.write(missing(Path(sys.argv[1]).read_text(encoding="utf-8"), installed))
