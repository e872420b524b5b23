"""Items of lm-eval's own task definitions.

lm-eval builds the contexts, few-shot examples and continuations; this module defines no task. It imports lm-eval in
functions, because lm-eval is slow to import and an optional extra.
"""

import contextlib
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from client.bench.items import Item, LoadedTask, TaskError, distinct
from client.bench.sources.generation import generating_of
from qconf.run.columns import Kind

# lm-eval's own default for drawing few-shot examples.
FEWSHOT_SEED = 1234
REPLAYED = {"loglikelihood", "loglikelihood_rolling", "generate_until"}
"""Kinds of lm-eval's requests that can be replayed."""


@dataclass(frozen=True)
class LoadedTasks:
    """Distinct tasks in the order of the command line, and lm-eval's groups of them by name."""

    tasks: list[LoadedTask]
    groups: dict[str, Any]


def load_tasks(
    names: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    cluster: str | None = None,
) -> LoadedTasks:
    """Load tasks by name; a group or a tag stands for its tasks.

    ``num_fewshot`` overrides the tasks' own numbers, except a fixed zero, as in lm-eval. ``limit`` takes the first
    documents of each. ``cluster`` is the field whose value the documents of a cluster share.
    """
    with quiet():
        manager = _manager(names, include_path)
        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        for name in names:
            found = _find(manager, name, include_path)
            tasks |= found["tasks"]
            groups |= found["groups"]
        return LoadedTasks([_load(name, task, num_fewshot, limit, cluster) for name, task in tasks.items()], groups)


def _manager(names: Sequence[str], include_path: Path | None) -> Any:
    task_manager = importlib.import_module("lm_eval.tasks").TaskManager
    if include_path is None:
        return task_manager()
    # Indexing lm-eval's 14,000 tasks takes ten seconds: skip it where ``include_path`` has all tasks.
    local = task_manager(include_path=str(include_path), include_defaults=False)
    return local if _suffices(local, names) else task_manager(include_path=str(include_path))


def _suffices(local: Any, names: Sequence[str]) -> bool:
    if all(name in local.all_subtasks for name in names):
        return True
    # A tag may have tasks here and in lm-eval, and a group may name lm-eval's tasks.
    if not all(name in local.all_subtasks or name in local.all_groups for name in names):
        return False
    try:
        local.load(list(names))
    except Exception:  # any error: loading from the whole index shows whether it is real
        return False
    return True


def _find(manager: Any, name: str, include_path: Path | None) -> Any:
    if name not in manager.task_index:
        where = f" and none in {include_path}" if include_path else " (tasks of your own: --include-path DIR)"
        raise TaskError(f"no task, group or tag of lm-eval is named '{name}'{where}")
    try:
        return manager.load([name])
    except Exception as exc:  # loading runs code of the task, lm-eval and datasets, which may raise anything
        raise TaskError(f"task '{name}' cannot be loaded: {one_line(exc)}") from exc


def _load(name: str, task: Any, num_fewshot: int | None, limit: int | None, cluster: str | None) -> LoadedTask:
    if task.config.num_fewshot is None:
        task.set_config(key="num_fewshot", value=0 if num_fewshot is None else num_fewshot)
    elif num_fewshot is not None and task.config.num_fewshot != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    try:
        task.build_all_requests(limit=limit)
        items = tuple(_items(name, task, cluster))
    except TaskError:
        raise
    except Exception as exc:  # the task's own code again
        raise TaskError(f"the requests of task '{name}' cannot be built: {one_line(exc)}") from exc
    return LoadedTask(name, str(task.VERSION), task.config.num_fewshot, items, task)


def _items(name: str, task: Any, cluster: str | None) -> Iterator[Item]:
    for doc_id, group in groupby(task.instances, key=lambda instance: instance.doc_id):
        instances = list(group)
        kind = _kind(name, task, instances)
        if kind == "loglikelihood_rolling":
            arguments = [("", instances[0].args[0])]
        elif kind == "generate_until":
            arguments = [(instances[0].args[0], "")]
        else:
            arguments = [instance.args for instance in instances]
        item = _item(name, task, doc_id, kind, instances[0].doc, arguments)
        if kind == "generate_until":
            how = generating_of(name, instances)
            item = replace(item, choices=(), choice_context=(), choice_chars=(), choice_bytes=(), generating=how)
        yield replace(item, cluster=_cluster(name, instances[0].doc, cluster)) if cluster else item


def _cluster(name: str, doc: Any, field: str) -> str | None:
    """Return the document's field, as JSON if it is not text; None where it is empty."""
    if field not in doc:
        raise TaskError(f"documents of task '{name}' have no field '{field}' to cluster by, but {', '.join(doc)}")
    value = doc[field]
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _kind(name: str, task: Any, instances: Sequence[Any]) -> Kind:
    types = {instance.request_type for instance in instances}
    generates = types == {"generate_until"}
    # A request to generate also has its options; of a task with images, these as well.
    arguments = [text for instance in instances for text in (instance.args[::2] if generates else instance.args)]
    texts = all(isinstance(text, str) for text in arguments)
    if not texts or len(types) > 1 or not types <= REPLAYED:
        what = " and ".join(sorted(types)) if texts else "with arguments that are not text"
        raise TaskError(f"task '{name}' has requests {what}: expected one of {', '.join(sorted(REPLAYED))}, of texts")
    if generates:
        return "generate_until"
    if types == {"loglikelihood_rolling"}:
        return "loglikelihood_rolling"
    return "multiple_choice" if task.OUTPUT_TYPE == "multiple_choice" else "loglikelihood"


def _item(name: str, task: Any, doc_id: int, kind: Kind, doc: Any, arguments: Sequence[tuple[str, str]]) -> Item:
    utils = importlib.import_module("lm_eval.utils")

    def dump(**options: Any) -> str:
        return json.dumps(doc, default=utils.handle_non_serializable, ensure_ascii=False, **options)

    texts = [choice for _, choice in arguments]
    bare = list(task.doc_to_choice(doc)) if kind == "multiple_choice" else texts
    # For its metric acc_mutual_info, lm-eval asks for every choice once more, without the context.
    unconditional = len(arguments) == 2 * len(bare) and "acc_mutual_info" in task.aggregation()
    if unconditional:
        arguments = arguments[: len(bare)]
    if len(bare) != len(arguments):  # the choices are in the contexts
        bare = [choice for _, choice in arguments]
    contexts, choice_context = distinct(context for context, _ in arguments)
    return Item(
        task=name,
        doc_id=doc_id,
        kind=kind,
        doc_hash=utils.hash_string(dump(indent=2)),
        prompt_hash=utils.hash_string(texts[0] if kind == "loglikelihood_rolling" else arguments[0][0]),
        contexts=contexts,
        choices=tuple(choice for _, choice in arguments),
        choice_context=choice_context,
        choice_chars=tuple(len(choice) for choice in bare),
        choice_bytes=tuple(len(choice.encode()) for choice in bare),
        label=_label(task, doc, bare) if kind == "multiple_choice" else None,
        unconditional=unconditional,
        doc=dump(),
        target=str(task.doc_to_target(doc)),
    )


def _label(task: Any, doc: Any, choices: Sequence[str]) -> int | None:
    """Return the index of the true choice; None for none or several, or where the task's own code judges answers."""
    if callable(task.config.process_results):
        return None
    target = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(target, str):
        return choices.index(target) if target in choices else None
    return int(target) if isinstance(target, int) and 0 <= target < len(choices) else None


def one_line(exc: Exception) -> str:
    """Return an exception's message in one line."""
    # A KeyError's text is the repr of its key.
    text = str(exc.args[0]) if isinstance(exc, KeyError) and exc.args else str(exc)
    return " ".join(text.split()) or type(exc).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, retry messages and warnings of lm-eval and datasets off the screen; errors are raised."""
    disabled = logging.root.manager.disable
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
