"""Text for calibration and a corpus, from the language reference that Python carries: different topics of it."""

import importlib
from pathlib import Path


def write_texts(calibration: Path, corpus: Path, characters: int) -> None:
    """Write every other topic as text for calibration, and paragraphs of the remaining topics as a corpus."""
    topics = [text for _, text in sorted(importlib.import_module("pydoc_data.topics").topics.items())]
    seen, kept = split(topics)
    calibration.write_text("\n\n".join(seen), encoding="utf-8")
    corpus.write_text("\n\n".join(kept)[:characters], encoding="utf-8")


def split(topics: list[str]) -> tuple[list[str], list[str]]:
    """Return texts for calibration and paragraphs that are not in them: topics repeat each other in part."""
    seen, others = topics[::2], topics[1::2]
    known = {_words(paragraph) for text in seen for paragraph in text.split("\n\n")}
    kept = {_words(paragraph): paragraph for text in others for paragraph in text.split("\n\n")}
    return seen, [paragraph for words, paragraph in kept.items() if words not in known]


def _words(paragraph: str) -> str:
    return " ".join(paragraph.split())
