"""The commands of ``python -m eval``: options, exit codes, one sentence per error."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eval.analysis.items import as_json
from eval.analysis.run import RunAnalysis, analyse_run
from eval.analysis.variants import check_variants
from eval.gate import judge, overall
from eval.gate import junit as as_junit
from eval.report.drift import drift_as_json, drift_table
from eval.report.grid import print_grid
from eval.report.page import render, render_markdown
from eval.report.terminal import print_run, print_variants
from eval.report.variants import Variants, compare_variants, ship_sentence, variants_as_json
from eval.report.verdict import stopped_sentence
from qconf.rules import read_rules
from qconf.run.choices import EvalError
from qconf.run.folder import Run, RunError, read_run
from qconf.run.reference import read_reference, run_samples
from qconf.statistics.bootstrap import RESAMPLES
from qconf.statistics.drift import FEWEST

BAD_INPUT = 64
EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 2}
PAGES = (".html", ".htm")
FILE_WIDTH = 200
"""Columns of a table that is written to a file: only terminals are narrow."""
RUNS = "A run folder; or several, of quantized variants of one base on the same items."
GATE = "With several runs: the limits that each is judged by, as for gate --config."
FLOOR = "A second run of the same pair, measured in another way: the noise floor."

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def commands() -> None:
    """Analyse what quantization did to a model's confidence, with error bars, from run folders."""


def read(path: Path) -> Run:
    """Read a run folder; warn about a replay that stopped early."""
    run = read_run(path)
    if stopped := stopped_sentence(run.manifest):
        print(f"note: {path}: {stopped}", file=sys.stderr)
    return run


def analyse_all(
    paths: Sequence[Path], *, gate: Path | None, floor: Path | None, seed: int, resamples: int
) -> tuple[list[tuple[Run, RunAnalysis]], Variants | None]:
    """Read and analyse runs; several are compared as variants of one base, which is checked first."""
    if gate and len(paths) == 1:
        raise EvalError(f"--gate is {gate} with one run, expected several: 'python -m eval gate' judges one")
    if floor and len(paths) > 1:
        raise EvalError(f"--floor is {floor} with {len(paths)} runs, expected one run: a noise floor is of one pair")
    rules = read_rules(gate) if gate else None
    found = [read(path) for path in paths]
    if len(found) > 1:
        check_variants(found)
    runs = [(run, analyse_run(run, floor=floor, seed=seed, resamples=resamples)) for run in found]
    return runs, compare_variants(runs, rules) if len(runs) > 1 else None


@app.command()
def table(
    runs: Annotated[list[Path], typer.Argument(help=RUNS)],
    gate: Annotated[Path | None, typer.Option(help=GATE)] = None,
    floor: Annotated[Path | None, typer.Option(help=FLOOR)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.", min=100)] = RESAMPLES,
    as_text: Annotated[bool, typer.Option("--json", help="Print all numbers as JSON.")] = False,
) -> None:
    """Print the statistics of a run, most with 95 % intervals, or of several variants what they lose for their size.

    Exit code 64: a run that cannot be analysed. With --gate, 0: a variant passes, 1: all fail, 2: none passes and one
    or more are inconclusive.
    """
    try:
        analysed, variants = analyse_all(runs, gate=gate, floor=floor, seed=seed, resamples=resamples)
    except (EvalError, RunError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from exc
    if as_text:
        found = numbers(analysed, variants) if variants else as_json(analysed[0][1])
        print(json.dumps(found, indent=2, allow_nan=False))
    elif variants:
        print_variants(console(), variants)
    else:
        print_run(console(), *analysed[0])
    exit_by(variants)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help=RUNS)],
    out: Annotated[Path, typer.Option("-o", "--out", help="The page, NAME.html; NAME.md and NAME.json come with it.")],
    gate: Annotated[Path | None, typer.Option(help=GATE)] = None,
    floor: Annotated[Path | None, typer.Option(help=FLOOR)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.", min=100)] = RESAMPLES,
    url: Annotated[
        str | None, typer.Option(help="Address of a server of these models: the worst items link into its page.")
    ] = None,
) -> None:
    """Write a report: a page that needs no network, a text for pull requests, all numbers for machines.

    Exit code 64: a run that cannot be analysed, or a file that cannot be written. With --gate, 0: a variant passes, 1:
    all fail, 2: none passes and one or more are inconclusive.
    """
    try:
        if out.suffix not in PAGES:
            raise EvalError(
                f"--out is {out}, expected the page's name, which ends in {' or '.join(PAGES)}: "
                "a text (.md) and the numbers (.json) are written with it"
            )
        if url is not None and not url.startswith(("http://", "https://")):
            raise EvalError(f"--url is {url}, expected a URL: http://host:port or https://...")
        analysed, variants = analyse_all(runs, gate=gate, floor=floor, seed=seed, resamples=resamples)
        for suffix, text in (
            (out.suffix, render(analysed, variants, url)),
            (".md", render_markdown(analysed, variants)),
            (".json", json.dumps(numbers(analysed, variants), indent=2, allow_nan=False) + "\n"),
        ):
            write_text(out.with_suffix(suffix), text)
            print(out.with_suffix(suffix))
    except (EvalError, RunError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from exc
    if variants:
        print(ship_sentence(variants))
    exit_by(variants)


@app.command()
def gate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    config: Annotated[Path, typer.Option(help="The limits, a TOML file with a [[rule]] for each.")],
    floor: Annotated[Path | None, typer.Option(help=FLOOR)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    resamples: Annotated[int, typer.Option(help="Resamples of the bootstrap.", min=100)] = RESAMPLES,
    junit: Annotated[Path | None, typer.Option(help="File for the verdicts as JUnit XML.")] = None,
    as_text: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge a run by limits. Exit code 0: pass, 1: fail, 2: inconclusive, 64: bad input."""
    try:
        rules = read_rules(config)
        verdicts = judge(rules, analyse_run(read(run), floor=floor, seed=seed, resamples=resamples))
        if junit:
            write_text(junit, as_junit(verdicts, str(run)))
    except (EvalError, RunError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from exc
    outcome = overall(verdicts)
    if as_text:
        print(json.dumps({"outcome": outcome, "rules": as_json(verdicts)}, indent=2, allow_nan=False))
    else:
        for verdict in verdicts:
            print(f"{verdict.outcome.upper():12} {verdict.message}")
        print(f"{run}: {outcome}")
    raise typer.Exit(EXIT_CODES[outcome])


@app.command()
def drift(
    reference: Annotated[Path, typer.Argument(help="The run folder that the other is compared with.")],
    run: Annotated[Path, typer.Argument(help="The run folder to compare with it.")],
    as_text: Annotated[bool, typer.Option("--json", help="Print the distances as JSON.")] = False,
) -> None:
    """Test whether confidences and KL are distributed as in another run, as the server does for live traffic.

    Exit code 0: no drift, 1: drift, 2: too few items or windows, 64: bad input.
    """
    try:
        frozen = read_reference(reference).reference
        distances = frozen.distances(frozen.sums(run_samples(read_run(run))))
    except (EvalError, RunError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from exc
    drifted = any(distance.drifted for distance in distances.values())
    outcome = "inconclusive" if not distances else "fail" if drifted else "pass"
    if as_text:
        print(json.dumps(drift_as_json(outcome, distances), indent=2, allow_nan=False))
    elif distances:
        print_grid(console(), drift_table(distances))
    else:
        print(f"{reference} and {run} have no quantity in common of {FEWEST} items or windows: nothing can be said")
    raise typer.Exit(EXIT_CODES[outcome])


def numbers(analysed: Sequence[tuple[Run, RunAnalysis]], variants: Variants | None) -> object:
    """Return the analyses as JSON has them, and of several runs also what compares their variants."""
    analyses = [analysis for _, analysis in analysed]
    return as_json({**variants_as_json(variants), "runs": analyses} if variants else analyses)


def exit_by(variants: Variants | None) -> None:
    """End the command with the gate's exit code, where there is a gate."""
    if variants and variants.outcome:
        raise typer.Exit(EXIT_CODES[variants.outcome])


def console() -> Console:
    """Return the terminal, or a file that is wide enough for the tables."""
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def write_text(path: Path, text: str) -> None:
    """Write the file, which is replaced as a whole. EvalError where that is not possible."""
    # A device or a pipe, such as /dev/stdout, must not be replaced.
    replaced = not path.exists() or path.is_file()
    target = path.with_name(f"{path.name}.part") if replaced else path
    try:
        target.write_text(text, encoding="utf-8")
        if replaced:
            os.replace(target, path)
    except OSError as exc:
        if replaced:
            target.unlink(missing_ok=True)
        raise EvalError(f"cannot write {path}: {exc.strerror}") from exc
