"""``python -m benchmarks.hostile.fuzz READER FOLDER --runs N --seed S``: readers of files under atheris (libFuzzer).

It begins with content that the reader accepts. The process ends with exit code 0 after its runs, and with another and a
traceback after the first surprise. libFuzzer ends it without clean-up: FOLDER, which
must be empty, keeps what it wrote.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["client", "qconf", "server", "tomllib"]):
    from benchmarks.hostile.readers import READERS, attempt

LONGEST = 4096
ALL = "all"
"""The first byte of the content chooses the reader."""


def main() -> None:
    """Fuzz one reader, or all in turns."""
    parser = argparse.ArgumentParser(description="Readers of files under atheris.")
    parser.add_argument("reader", choices=[ALL, *READERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    corpus = options.folder / "corpus"
    corpus.mkdir()
    chosen = list(READERS.values()) if options.reader == ALL else [READERS[options.reader]]
    for index, reader in enumerate(chosen):
        for number, content in enumerate(reader.accepted(options.folder)):
            first = bytes([index]) if options.reader == ALL else b""
            (corpus / f"{index}.{number}").write_bytes(first + content)

    def one(content: bytes) -> None:
        attempt(chosen[0], options.folder, content)

    def any_(content: bytes) -> None:
        if content:
            attempt(chosen[content[0] % len(chosen)], options.folder, content[1:])

    target: Callable[[bytes], None] = any_ if options.reader == ALL else one
    settings = [
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={options.folder}/",
    ]
    atheris.Setup([sys.argv[0], *settings, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
