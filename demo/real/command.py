"""The command lines of ``make real`` and of its variants: options, exit codes, one sentence per error."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from demo.real.chain import Chain
from demo.real.pair import INTERRUPTED, Options
from demo.real.stages import Stage, StageError, run_stages
from demo.real.variant_chain import GROUP_SIZE, VariantChain

FAILED = 1
WORK, LIMIT, CHARACTERS, SAMPLES = Path("real"), 200, 100_000, 64

Work = Annotated[Path, typer.Option(help="Folder for everything that is made; what is there is kept.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Local folder or hub name of a model to quantize.", show_default="SmolLM2-135M-Instruct of a package"
    ),
]
# The report needs 3 items of each task.
Limit = Annotated[int, typer.Option(help="Items of each task, drawn at random.", min=3)]
Characters = Annotated[int, typer.Option(help="Length of the corpus.", min=4000)]
Samples = Annotated[int, typer.Option(help="Calibration sequences of 512 tokens.", min=1)]
Dtype = Annotated[
    Literal["bfloat16", "float16", "float32"] | None,
    typer.Option(help="Type that all models are served in.", show_default="the fastest on this machine"),
]
Seed = Annotated[int, typer.Option(help="Seed of the draw.", min=0)]

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
variants_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def real(
    work: Work = WORK,
    model: Model = None,
    limit: Limit = LIMIT,
    characters: Characters = CHARACTERS,
    samples: Samples = SAMPLES,
    group_size: Annotated[int, typer.Option(help="Weights per scale of the quantized model.")] = GROUP_SIZE,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Quantize a real language model, replay tasks of BIG-bench and a corpus against the pair, report and judge.

    Stages whose options and inputs are unchanged are kept; after Ctrl-C the same command continues. The verdict does
    not change the exit code. Exit codes: 0 finished, 1 a stage failed, 2 invalid input, 130 interrupted.
    """
    chain = Chain(Options(work, model, limit, characters, samples, group_size, dtype, seed))
    run_all(chain.stages(), work)
    print(f"\n{chain.verdict.read_text(encoding='utf-8')}\nThe report: {chain.page}")


@variants_app.command()
def variants(
    work: Work = WORK,
    model: Model = None,
    limit: Limit = LIMIT,
    characters: Characters = CHARACTERS,
    samples: Samples = SAMPLES,
    dtype: Dtype = None,
    seed: Seed = 0,
) -> None:
    """Quantize the model of make real in several ways, and replay tasks and corpus against all of them at once.

    Give the options that make real was given: what it made with them is kept. After Ctrl-C the same command continues.
    The verdict does not change the exit code. Exit codes: 0 finished, 1 a stage failed, 2 invalid input, 130
    interrupted.
    """
    chain = VariantChain(Options(work, model, limit, characters, samples, GROUP_SIZE, dtype, seed))
    run_all(chain.stages(), work)
    print(f"\nThe report: {chain.page}")


def run_all(stages: Iterable[Stage], work: Path) -> None:
    """Run the stages; end the command where one fails or is interrupted."""
    try:
        run_stages(list(stages), work / "stamps")
    except StageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(FAILED) from exc
    except KeyboardInterrupt as exc:
        print("interrupted: the same command continues", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from exc
