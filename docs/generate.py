"""Write the reference pages that follow from the code: ``python -m docs.generate``."""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from client.bench.journal import JOURNAL
from docs.commands import command_helps
from docs.http_reference import http
from docs.markdown import markdown, page, table
from eval.analysis.run import RunAnalysis, analyse_run
from eval.gate import ALIKE, token_statistics, trace_statistics
from qconf.item_rules import item_statistic
from qconf.rules import Rule
from qconf.run import folder
from qconf.run.choices import EvalError
from qconf.run.columns import ANSWER_SCHEMA, COUNT_SCHEMA, ITEM_SCHEMA, TOKEN_SCHEMA
from qconf.statistics.intervals import Interval
from qconf.wire import Timing
from server.shadow.metrics import ShadowMetrics
from server.shadow.recorder import Recorder
from server.shadow.sampling import OBSERVE
from server.shadow.sources import MIRROR
from tests.synthetic_run import again, generated, items, later, tokens, window, write
from tests.test_monitor import monitor, observations

FOLDER = Path(__file__).parent / "reference"
VARIANTS = ("first", "second")
"""What has the label ``variant`` has it only with several."""
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def cli() -> str:
    """Return the help of each command."""
    parts = [f"## `{name}`\n\n```text\n{_trimmed(text)}\n```" for name, text in command_helps()]
    first = "`qconf-server` is `python -m server`; it also reads `QCONF_*` environment variables, such as `QCONF_PORT`."
    return page("Commands", first, *parts)


def run_folder() -> str:
    """Return the files of a run, and the columns of its tables."""
    about = markdown(inspect.getdoc(folder)).partition("\n\n")[2]
    columns = ("column", "type", "null", "meaning")
    journal = (
        f"During a replay, `{JOURNAL}` has the answers so far; `--resume` continues from there. A replay of several "
        "quantized variants writes a run folder for each, named after it, beside the journal."
    )
    return page(
        "Run folders",
        about,
        journal,
        f"## `{folder.ITEMS}`\n\n" + table(columns, map(_column, ITEM_SCHEMA)),
        f"## `{folder.TOKENS}`\n\n" + table(columns, map(_column, TOKEN_SCHEMA)),
        f"## `{folder.ANSWERS}`\n\n" + table(columns, map(_column, ANSWER_SCHEMA)),
        f"## `{folder.COUNTS}`\n\n" + table(columns, map(_column, COUNT_SCHEMA)),
    )


def gate() -> str:
    """Return the fields of a rule, and the statistics that it can limit."""
    with tempfile.TemporaryDirectory() as place:
        run = _synthetic_run(Path(place))
    assert run.overall is not None
    assert run.floor is not None
    assert run.floor.overall is not None
    both = {name: each.delta for name, each in run.overall.compared.items()}
    (corpus,), (trace,), (corpus_floor,) = run.corpora.values(), run.traces.values(), run.floor.corpora.values()
    alike = {name: getattr(run.generated["answers"], name) for name in ALIKE}
    on_corpus, over_floor = {"corpus": "NAME"}, {"over_floor": True}
    return page(
        "Rules of a gate",
        markdown(inspect.getdoc(Rule)),
        "## Fields of a `[[rule]]`\n\nA rule has `at_least`, `at_most` or both.",
        table(("field", "type", "default"), _fields()),
        '## Statistics\n\nOne with an interval can be judged by it; one with only a spread needs `judge = "point"`.\n'
        "The last column says whether `client.bench --until` can judge it.",
        "### Of each model, and of the difference (`of`)\n\n" + _statistics(both),
        "### Of both models together\n\nThese have no `of`.\n\n" + _statistics(run.overall.pair),
        "### Of a task whose answers are generated\n\nMetrics that say right or wrong, by their names in lm-eval, as "
        "in `exact_match,strict-match`. A rule on\n`accuracy` is a rule on each of them. They have `of` and an "
        "interval; `--until` cannot judge them.\n\nOf both models together:",
        _statistics(alike),
        "### Of a corpus (`corpus`)\n\n" + _statistics(token_statistics(corpus, None), **on_corpus),
        "Of a corpus that is the base model's own greedy text (`python -m client.trace`), also:",
        _statistics(trace_statistics(trace), **on_corpus),
        "### Over the floor (`over_floor`)\n\nThese have no `of`, either.",
        _statistics(run.floor.overall.excess, **over_floor),
        "### Over the floor, of a corpus\n\n" + _statistics(corpus_floor.excess, **on_corpus, **over_floor),
    )


def metrics() -> str:
    """Return the server's own Prometheus metrics."""
    own = [family for family in _families() if family.name.startswith("qconf_")]
    first = (
        "`/metrics` has these and vLLM's own (`vllm:*`). A histogram has `_bucket`, `_sum` and `_count`; one of\n"
        "signed values has only `_bucket`, because its sum could fall. The label `variant` is there only where the\n"
        "server has several quantized variants. [Watch a deployment](../how-to/monitor.md) has queries."
    )
    return page("Metrics", first, table(("metric", "type", "labels", "meaning"), map(_metric, own)))


PAGES: dict[str, Callable[[], str]] = {
    "http.md": http,
    "cli.md": cli,
    "run-folder.md": run_folder,
    "gate.md": gate,
    "metrics.md": metrics,
}


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _column(column: Any) -> list[str]:
    meaning = column.metadata[b"description"].decode()
    return [f"`{column.name}`", f"`{column.type}`", "yes" if column.nullable else "no", meaning]


def _synthetic_run(place: Path) -> RunAnalysis:
    """Analyse a small run that has items, generated answers, a corpus and a floor."""
    rows = items("task", 60, 1)
    written, answers = generated("answers", 60, 1)
    windows, corpus = [window("text", number, "trace") for number in range(12)], tokens("text", 12, 40, 2)
    run = write(place / "run", rows + written + windows, corpus, answers)
    rows = again(rows, 3, base=0.1, quantized=0.1)
    second = write(place / "second", rows + written + windows, corpus, answers, about=later())
    return analyse_run(run, floor=second, resamples=100)


def _fields() -> Iterator[list[str]]:
    schema = Rule.model_json_schema()
    for name, field in schema["properties"].items():
        default = "needed" if name in schema["required"] else _toml(field["default"])
        yield [f"`{name}`", _type(field), default]


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(map(_toml, field["enum"]))
    return str(field["type"] if "type" in field else field["anyOf"][0]["type"])


def _toml(value: object) -> str:
    if value is None:
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f'`"{value}"`'


def _statistics(values: dict[str, Interval], **rule: Any) -> str:
    rows = ([f"`{name}`", each.kind, _until(name, rule)] for name, each in values.items())
    return table(("statistic", "has", "`--until`"), rows)


def _until(name: str, rule: dict[str, Any]) -> str:
    try:
        item_statistic(Rule(statistic=name, at_most=0.0, **rule))
    except EvalError:
        return "no"
    return "yes"


def _families() -> Iterator[Metric]:
    """Yield the metrics of a monitor after some traffic: families without series do not show their labels."""
    with tempfile.TemporaryDirectory() as place:
        run = write(Path(place) / "run", items("task", 60, 1))
        watched = monitor(run, variants=VARIANTS, sources=[MIRROR])
        seen = observations(folder.read_run(run), np.random.default_rng(1))
    for each in seen:
        watched.add([each for _ in VARIANTS])
        watched.add_mirrored(MIRROR, [each for _ in VARIANTS])
    ShadowMetrics({OBSERVE: 1}, [MIRROR], 1, watched.registry)
    Recorder(FOLDER, VARIANTS, watched.registry, days=1, tokens=False)
    service = watched.metrics
    service.requests.labels("/compare", "200")
    service.duration.labels("/compare")
    service.principal_requests.labels("team", "200")
    service.principal_tokens.labels("team")
    service.timed("/compare", Timing(tokenize_ms=0, queue_ms=0, engine_ms=0, total_ms=0))
    service.scored(seen[0].tokens)
    text = watched.exposition(OPENMETRICS)[0].decode()
    yield from text_string_to_metric_families(text)  # type: ignore[no-untyped-call]


def _metric(family: Metric) -> list[str]:
    assert family.samples, f"{family.name} has no series, and so no labels: give it one in _families"
    labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
    name = f"{family.name}_total" if family.type == "counter" else family.name
    summed = family.type != "histogram" or any(sample.name.endswith("_sum") for sample in family.samples)
    return [f"`{name}`", family.type if summed else "histogram, signed", ", ".join(labels), family.documentation]


if __name__ == "__main__":
    for name, content in PAGES.items():
        (FOLDER / name).write_text(content(), encoding="utf-8")
