"""Benchmark items, from lm-eval's own task definitions.

lm-eval builds the contexts, few-shot examples and continuations; nothing of a task is written here. It is imported by
the functions that need it, because it is slow to import and an optional extra.
"""

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

# lm-eval's own default for drawing few-shot examples.
FEWSHOT_SEED = 1234


class TaskError(Exception):
    """A task that cannot be replayed, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a task: a context and the continuations to choose from, exactly as lm-eval would score them.

    ``choice_chars`` and ``choice_bytes`` are lengths of the choices without the delimiter that lm-eval puts before
    them: what its acc_norm and acc_bytes divide by. ``label`` is None where the task names no choice that exists.
    """

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    context: str
    continuations: tuple[str, ...]
    choice_chars: tuple[int, ...]
    choice_bytes: tuple[int, ...]
    label: int | None


@dataclass(frozen=True, slots=True)
class LoadedTask:
    """A task as it will be replayed."""

    name: str
    version: str
    num_fewshot: int
    items: tuple[Item, ...]


def load_tasks(
    names: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> list[LoadedTask]:
    """Tasks by name, in the order asked for; a group or a tag stands for its tasks, once each.

    ``num_fewshot`` overrides what the tasks say, except a task that is fixed to zero, as in lm-eval. ``limit`` takes
    the first documents of each.
    """
    with _quiet():
        manager = _manager(names, include_path)
        found: dict[str, Any] = {}
        for name in names:
            found |= _find(manager, name, include_path)
        return [_load(name, task, num_fewshot, limit) for name, task in found.items()]


def _manager(names: Sequence[str], include_path: Path | None) -> Any:
    task_manager = importlib.import_module("lm_eval.tasks").TaskManager
    if include_path is None:
        return task_manager()
    # Indexing lm-eval's 14,000 tasks takes ten seconds: spare it where all are found at home.
    local = task_manager(include_path=str(include_path), include_defaults=False)
    return local if _suffices(local, names) else task_manager(include_path=str(include_path))


def _suffices(local: Any, names: Sequence[str]) -> bool:
    if all(name in local.all_subtasks for name in names):
        return True
    # A tag may have tasks here and in lm-eval, and a group may name tasks of lm-eval's.
    if not all(name in local.all_subtasks or name in local.all_groups for name in names):
        return False
    try:
        local.load(list(names))
    except Exception:  # whatever it is, the whole index will show whether it is really wrong
        return False
    return True


def _find(manager: Any, name: str, include_path: Path | None) -> dict[str, Any]:
    if name not in manager.task_index:
        where = f" and none in {include_path}" if include_path else " (tasks of your own: --include-path DIR)"
        raise TaskError(f"no task, group or tag of lm-eval is named '{name}'{where}")
    try:
        return dict(manager.load([name])["tasks"])
    except Exception as exc:  # loading runs the task's own code, lm-eval's and that of datasets: anything may come
        raise TaskError(f"task '{name}' cannot be loaded: {_one_line(exc)}") from exc


def _load(name: str, task: Any, num_fewshot: int | None, limit: int | None) -> LoadedTask:
    _refuse_unsupported(name, task)
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0 if num_fewshot is None else num_fewshot)
    elif num_fewshot is not None and task.config.num_fewshot != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    try:
        task.build_all_requests(limit=limit)
        items = tuple(_items(name, task))
    except Exception as exc:  # the task's own code again
        raise TaskError(f"the requests of task '{name}' cannot be built: {_one_line(exc)}") from exc
    return LoadedTask(name, str(task.VERSION), task.config.num_fewshot, items)


def _refuse_unsupported(name: str, task: Any) -> None:
    reason = None
    if task.OUTPUT_TYPE != "multiple_choice":
        reason = f"its output type is {task.OUTPUT_TYPE}"
    elif callable(task.config.process_results):
        reason = "it scores answers with code of its own"
    elif task.multiple_input:
        reason = "its choices are in the context, not in the continuation"
    elif task.multiple_target:
        reason = "its documents have several true choices"
    elif "acc_mutual_info" in task.aggregation():
        reason = "it also scores the choices without their context"
    if reason:
        raise TaskError(f"task '{name}' cannot be replayed: {reason}; only plain multiple choice can, so far")


def _items(name: str, task: Any) -> Iterator[Item]:
    utils = importlib.import_module("lm_eval.utils")
    for doc_id, group in groupby(task.instances, key=lambda instance: instance.doc_id):
        instances = list(group)
        doc, context = instances[0].doc, instances[0].args[0]
        choices = task.doc_to_choice(doc)
        yield Item(
            task=name,
            doc_id=doc_id,
            doc_hash=utils.hash_string(
                json.dumps(doc, indent=2, default=utils.handle_non_serializable, ensure_ascii=False)
            ),
            prompt_hash=utils.hash_string(context),
            context=context,
            continuations=tuple(instance.args[1] for instance in instances),
            choice_chars=tuple(len(choice) for choice in choices),
            choice_bytes=tuple(len(choice.encode()) for choice in choices),
            label=_label(task.doc_to_target(doc), choices),
        )


def _label(target: object, choices: Sequence[str]) -> int | None:
    if isinstance(target, str):
        return choices.index(target) if target in choices else None
    return int(target) if isinstance(target, int) and 0 <= target < len(choices) else None


def _one_line(exc: Exception) -> str:
    # A KeyError's text is the repr of its key.
    text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
    return " ".join(text.split()) or type(exc).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps progress bars, retry messages and warnings of lm-eval and datasets off the screen; errors are raised."""
    disabled = logging.root.manager.disable
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
