"""The command line of the quantizer: options, exit codes, one sentence per error."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from server.quantize.errors import QuantizeError
from server.quantize.options import Calibration, Method, Options
from server.quantize.twin import quantize

REFUSED = 2
GPTQ_ONLY = ("calibration", "samples", "sequence_length", "batch_size", "desc_act", "sym")
CALIBRATION_NEEDED = "--calibration FILE is needed: a .txt file, or a .jsonl file with a `text` field per line"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Local folder or hub name of the full-precision model.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; must not exist.")],
    method: Annotated[
        Method, typer.Option(help="GPTQ, or rounding to nearest on the same grid, as a baseline: without calibration.")
    ] = "gptq",
    calibration: Annotated[
        Path | None, typer.Option(help="Text (.txt), or .jsonl with a 'text' field in each line; GPTQ needs it.")
    ] = None,
    bits: Annotated[Literal[2, 3, 4, 8], typer.Option(help="Bits per weight.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights per scale; -1: a whole row.")] = 128,
    desc_act: Annotated[bool, typer.Option("--desc-act", help="Quantize columns by decreasing activation.")] = False,
    sym: Annotated[bool, typer.Option(help="Symmetric levels.")] = True,
    samples: Annotated[int, typer.Option(help="Calibration sequences.")] = 128,
    sequence_length: Annotated[int, typer.Option(help="Tokens in each.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Calibration sequences run at once.")] = 1,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        typer.Option(help="Type of the weights that stay unquantized; auto: the model's own."),
    ] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
) -> None:
    """Make a model's quantized twin, by default with the settings of the paper, with GPTQModel.

    The folder appears whole or not at all; its qconf.json says how the weights were made. Exit code 2: invalid input.
    """
    try:
        if method == "rtn":
            refuse_gptq_only(context)
        elif calibration is None:
            raise QuantizeError(CALIBRATION_NEEDED)
        quantize(
            Options(
                model=model,
                out=out,
                calibration=None
                if calibration is None
                else Calibration(calibration, samples, sequence_length, batch_size),
                bits=bits,
                group_size=group_size,
                desc_act=desc_act,
                sym=sym,
                dtype=dtype,
                revision=revision,
            )
        )
    except QuantizeError as exc:
        print(f"qconf-quantize: error: {exc}", file=sys.stderr)
        raise typer.Exit(REFUSED) from exc


def refuse_gptq_only(context: typer.Context) -> None:
    """Raise QuantizeError if an option is given that rounding to nearest would ignore."""
    for name in GPTQ_ONLY:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise QuantizeError(
                f"--{name.replace('_', '-')} is for --method gptq; got --method rtn, "
                "which rounds to symmetric levels without calibration"
            )
