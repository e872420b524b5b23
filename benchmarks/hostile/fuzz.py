"""``python -m benchmarks.hostile.fuzz READER --runs N --seed S``: a reader of files under atheris (libFuzzer).

It begins with content that the reader accepts, with this content when one value in it is another, and with hand-made
content. The process ends with exit
code 0 after its runs, and with another and a traceback after the first surprise. libFuzzer ends it without clean-up.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["client", "qconf", "server", "json", "tomllib"]):
    from benchmarks.hostile.readers import READERS, attempt, variants

LONGEST = 4096
DEEP = 100_000
HAND_MADE = (
    b"",
    b"\n\n",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}\n",
    b"null\n",
    b"[]\n",
    b'"text"\n',
    b"1\n",
    b"NaN\n",
    b"1e999\n",
    b"9" * 5000 + b"\n",
    b"[" * DEEP + b"\n",
    b'{"a":' * DEEP + b"\n",
    rb'{"text": "\ud800", "prompt": "\ud800", "choices": ["\ud800", "b"]}' + b"\n",
    b'{"doc_id": 1e999}\n',
    b'{"doc_id": NaN}\n',
    b"a = " + b"[" * DEEP,
)


def main() -> None:
    """Try the hand-made content, then what the fuzzer makes."""
    parser = argparse.ArgumentParser(description="A reader of files under atheris.")
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reader = READERS[options.reader]
    folder = Path(tempfile.mkdtemp())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(reader.accepted(folder)):
        reader.read(_written(folder / reader.file, content))
        (corpus / str(number)).write_bytes(content)
        for variant in variants(content):
            attempt(reader, folder, variant)
        for made in HAND_MADE:
            attempt(reader, folder, made)
            attempt(reader, folder, content + made)
            attempt(reader, folder, made + content)
    settings = [f"-runs={options.runs}", f"-seed={options.seed}", f"-max_len={LONGEST}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *settings, str(corpus)], lambda content: attempt(reader, folder, content))
    atheris.Fuzz()


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    main()
