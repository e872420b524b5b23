"""The paper's table: accuracy, its calibration error and confidences of each task, next to the authors' own figures."""

from dataclasses import dataclass

from eval.analysis.run import RunAnalysis
from qconf.run.folder import Manifest

# Calibration errors in percent, full-precision and GPTQ 4-bit, from the output of the authors' notebook
# (github.com/upunaprosk/quantized-lm-confidence, 3_Calibration_Error_Metrics.ipynb).
AUTHORS = {
    "bloom-7b1": {
        "arc_easy": (15.57, 16.63),
        "boolq": (32.28, 32.47),
        "hellaswag": (48.54, 49.61),
        "openbookqa": (53.23, 53.24),
        "piqa": (42.52, 42.28),
        "xstorycloze_en": (5.53, 5.43),
    }
}


@dataclass(frozen=True)
class PaperRow:
    """A task, all numbers in percent; ``authors`` has the authors' figures where model and task are theirs."""

    task: str
    accuracy: tuple[float, float]
    calibration_error: tuple[float, float]
    confidence: tuple[float, float]
    true_confidence: tuple[float, float]
    authors: tuple[float, float] | None


def paper_rows(manifest: Manifest, run: RunAnalysis) -> list[PaperRow]:
    """Return a row for each task whose items all have the same number of choices; each pair is base, quantized."""
    authors = _authors(manifest)
    rows = []
    for name, task in run.tasks.items():
        if "paper_ce" in task.compared:
            pairs = {
                metric: (100 * task.compared[metric].base.point, 100 * task.compared[metric].quantized.point)
                for metric in ("accuracy", "paper_ce", "confidence", "true_confidence")
            }
            rows.append(
                PaperRow(
                    task=name,
                    accuracy=pairs["accuracy"],
                    calibration_error=pairs["paper_ce"],
                    confidence=pairs["confidence"],
                    true_confidence=pairs["true_confidence"],
                    authors=authors.get(name),
                )
            )
    return rows


def _authors(manifest: Manifest) -> dict[str, tuple[float, float]]:
    """Return the authors' figures for the model, recognized by the name of the base model and a twin with 4 bits."""
    if manifest.subject is None:
        return {}
    models = manifest.subject.models
    base, quantized = (model.root.rstrip("/").rpartition("/")[2].lower() for model in (models.base, models.quantized))
    return AUTHORS.get(base, {}) if "4bit" in quantized or "gptq" in quantized else {}
