"""The page's tables of how a run came about: its settings, models, tasks, files and packages."""

from collections.abc import Mapping

from eval.analysis.run import RunAnalysis
from eval.report.grid import Grid
from eval.report.size import size_table, sizes
from qconf.run.calls import calls_rows
from qconf.run.folder import Manifest


def provenance_tables(manifest: Manifest, analysis: RunAnalysis) -> list[Grid]:
    """Return the tables; imported runs have fewer."""
    tables = [_run_table(manifest, analysis)]
    if manifest.subject:
        models, settings = manifest.subject.models, manifest.subject.settings
        base, quantized = models.base.model_dump(), models.quantized.model_dump()
        fields = ("root", "revision", "digest", "architecture", "dtype", "quantization", "max_model_len")
        tables += [
            Grid("Models", ["", "base", "quantized"], [[f, _shown(base[f]), _shown(quantized[f])] for f in fields]),
            *([size_table(both)] if (both := sizes(manifest)) else []),
            Grid(
                "Tasks and corpora",
                ["name", "version", "few-shot", "items", "digest"],
                [[t.name, t.version, str(t.num_fewshot), str(t.items), t.digest] for t in manifest.subject.tasks],
            ),
            *_calls_table(manifest.subject.logs),
            Grid(
                "Settings",
                ["", "value"],
                [[name.replace("_", " "), _shown(value)] for name, value in settings.model_dump().items()],
            ),
        ]
    if manifest.imported:
        files = [("base", manifest.imported.base), ("quantized", manifest.imported.quantized)]
        tables.append(
            Grid("Imported files", ["model", "file"], [[role, file] for role, names in files for file in names])
        )
    return [*tables, Grid("Packages", ["name", "version"], [list(each) for each in manifest.packages.items()])]


def _run_table(manifest: Manifest, analysis: RunAnalysis) -> Grid:
    rows = [
        ["folder", analysis.path],
        ["created", manifest.created],
        ["items", f"{manifest.counts.items}, of which {manifest.counts.failed} failed"],
        ["bootstrap", f"{analysis.settings['resamples']} resamples, seed {analysis.settings['seed']}"],
    ]
    if analysis.floor:
        rows.append(["noise floor", ", ".join([analysis.floor.path, *analysis.floor.ways])])
    if manifest.subject:
        server = manifest.subject.server
        rows.append(["server", f"qconf {server.version}, vLLM {server.vllm}, {server.device}"])
        rows += [["url", _shown(manifest.url)], ["concurrency", _shown(manifest.concurrency)]]
        rows.append(["task folder", _shown(manifest.include_path)])
    if manifest.timing:
        timing = manifest.timing
        rows.append(["started, finished", f"{timing.started}, {timing.finished}"])
        rows.append(["at work", f"{timing.seconds:.1f} s, {timing.items_per_second:.1f} items/s"])
        rows.append(["sessions", str(timing.sessions)])
    return Grid("Run", ["", "value"], rows)


def _calls_table(logs: Mapping[str, Mapping[str, int]]) -> list[Grid]:
    rows = [[words, *map(str, counts)] for words, counts in calls_rows(list(logs.values()))]
    return [Grid("Logs of calls", ["", *logs], rows)] if logs else []


def _shown(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value) if value == " " else str(value)
