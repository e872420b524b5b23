"""The command line: options, exit codes, one sentence per error."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from demo.real.chain import INTERRUPTED, Chain, Options
from demo.real.stages import StageError, run_stages

FAILED = 1

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def real(
    work: Annotated[Path, typer.Option(help="Folder for everything that is made; what is there is kept.")] = Path(
        "real"
    ),
    model: Annotated[
        str | None,
        typer.Option(
            help="Local folder or hub name of a model to quantize.", show_default="SmolLM2-135M-Instruct of a package"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Items of each task, drawn at random.", min=1)] = 200,
    characters: Annotated[int, typer.Option(help="Length of the corpus.", min=4000)] = 100_000,
    samples: Annotated[int, typer.Option(help="Calibration sequences of 512 tokens.", min=1)] = 64,
    group_size: Annotated[int, typer.Option(help="Weights per scale of the quantized model.")] = 64,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None,
        typer.Option(help="Type that both models are served in.", show_default="the fastest on this machine"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 0,
) -> None:
    """Quantize a real language model, replay tasks of BIG-bench and a corpus against the pair, report and judge.

    Stages whose options and inputs are unchanged are kept; after Ctrl-C the same command continues. The verdict does
    not change the exit code. Exit codes: 0 finished, 1 a stage failed, 2 invalid input, 130 interrupted.
    """
    chain = Chain(Options(work, model, limit, characters, samples, group_size, dtype, seed))
    try:
        run_stages(list(chain.stages()), work / "stamps")
    except StageError as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(FAILED) from exc
    except KeyboardInterrupt as exc:
        print("interrupted: the same command continues", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from exc
    print(f"\n{chain.verdict.read_text(encoding='utf-8')}\nThe report: {chain.page}")
