"""A small task as lm-eval wants it, written to a folder."""

import json
from pathlib import Path
from typing import Any

DOCS: list[dict[str, Any]] = [
    {"question": "Is the sky blue?", "choices": ["yes", "no"], "label": 0},
    {"question": "Is coal white?", "choices": ["yes", "no", "maybe"], "label": 1},
    {"question": "Wie heißt es?", "choices": ["Straße", "日本"], "label": 1},
]


# Choices that stand in the context: the one that fits the ending is to be found.
WINOGRANDE: dict[str, Any] = {
    "docs": [
        {"sentence": "The cat chased the mouse because the _", "options": ["the cat", "the mouse"], "answer": 0},
        {"sentence": "The stone sank in the water because the _", "options": ["stone", "water"], "answer": 0},
    ],
    "config": {
        "doc_to_text": "answer",
        "doc_to_choice": "{{[sentence.replace('the _', options[0]), sentence.replace('the _', options[1])]}}",
        "doc_to_target": "was hungry.",
    },
}


def write_task(folder: Path, name: str, docs: list[dict[str, Any]] = DOCS, **overrides: Any) -> Path:
    """Write data and definition, and return the folder."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.5},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(config | overrides))
    return folder
