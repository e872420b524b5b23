"""The command line of the bench: options, exit codes, one sentence per error."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.api import DEFAULT_URL
from client.bench.items import TaskError
from client.bench.session import Interrupted, RuleFailed, Stopped, run_bench
from client.bench.sources.corpus import DEFAULT_WINDOW
from client.bench.sources.load import BenchOptions
from client.command_line import INTERRUPTED, REFUSED, SOME_FAILED, Retries, Timeout, exit_with, output
from client.errors import QconfError
from qconf.run.folder import RunError
from qconf.tracing import tracing

RULE_FAILED = 3

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def split_names(tasks: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))


@app.command()
def bench(
    tasks: Annotated[str, typer.Option(help="Names of lm-eval tasks, groups or tags, separated by commas.")] = "",
    data: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines with prompt, choices and label (index of the true choice, may be missing)."),
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="A text to compare both models on, token by token, or records of token ids (NAME.jsonl) with "
            "prompt_token_ids and token_ids, of which the latter are scored."
        ),
    ] = None,
    requests: Annotated[
        list[Path] | None,
        typer.Option(
            help="A log of calls of OpenAI's form (JSON lines), token by token: their answers, or prompts where a call "
            "has none."
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of the qconf server; may be repeated, for several servers of the same models.",
            show_default=DEFAULT_URL,
        ),
    ] = None,
    include_path: Annotated[
        Path | None,
        typer.Option(help="Folder with task definitions of your own (YAML).", exists=True, file_okay=False),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Few-shot examples in the context; otherwise the task's own number.", min=0)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Take only the first documents of each task, windows of each corpus, or calls of each log.", min=1
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Field of the tasks' documents whose value the items of a cluster share, such as a passage; lines of "
            "--data have 'cluster'."
        ),
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Text between prompt and choice of --data.")] = " ",
    window: Annotated[
        int | None,
        typer.Option(
            help="Tokens per window of texts that are scored whole.",
            show_default="512 for texts of --corpus, otherwise the models' context",
            min=3,
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens between the starts of a corpus's windows, each of which scores that many; otherwise windows "
            "are adjacent and score their second halves. Of a record longer than a window, every token is scored.",
            min=1,
        ),
    ] = None,
    expected_counts: Annotated[
        bool,
        typer.Option(
            "--expected-counts",
            help="Sum the probability of each token of the vocabulary over every --corpus and --requests, and list the "
            "tokens that became likelier or rarer.",
        ),
    ] = False,
    concurrency: Annotated[
        int, typer.Option(help="Requests in flight at once, to all servers; fewer while a server is overloaded.", min=1)
    ] = 32,
    special_tokens: Annotated[
        bool,
        typer.Option(help="Let the tokenizer add its special tokens, such as a leading BOS, to contexts."),
    ] = True,
    retries: Retries = 20,
    timeout: Timeout = 600.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the run to; must not exist.", show_default="runs/<time>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --out, or start it if there is none.")
    ] = False,
    until: Annotated[
        Path | None,
        typer.Option(
            help="Rules as for 'eval gate' (TOML): draw items in random order, and stop when every rule is settled."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the random order of --until.", show_default="0", min=0)
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Name of the quantized variant whose run is written, for servers that have several.",
            show_default="all, each to a folder of its name in --out",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only the final tables.")] = False,
) -> None:
    """Replay lm-eval tasks, items of your own, a text or a log of calls against a qconf server and compare its base
    model with each quantized variant.

    Exit codes: 0 all went well, 1 some items failed or the server went away, 2 invalid input or refused, 3 a rule of
    --until failed, 130 interrupted.
    """
    names = split_names(tasks)
    urls = [each.rstrip("/") for each in url or [DEFAULT_URL]]
    if twice := [each for each in urls if urls.count(each) > 1]:
        raise typer.BadParameter(f"--url is {twice[0]} twice: expected each server once")
    if not (names or data or corpus or requests):
        raise typer.BadParameter("nothing to replay: expected --tasks, --data, --corpus or --requests")
    if cluster is not None and not names:
        raise typer.BadParameter(f"--cluster is '{cluster}', a field of the documents of --tasks: expected --tasks")
    if expected_counts and not (corpus or requests):
        raise typer.BadParameter("--expected-counts are of corpora: expected --corpus or --requests")
    if resume and out is None:
        raise typer.BadParameter("--resume needs --out, the folder of the run to resume")
    if seed is not None and until is None:
        raise typer.BadParameter(f"--seed is {seed}: only the order of --until has a seed")
    if stride is not None and stride >= (window or DEFAULT_WINDOW):
        raise typer.BadParameter(
            f"--stride is {stride}, expected less than a window, {window or DEFAULT_WINDOW} tokens"
        )
    options = BenchOptions(
        urls=urls,
        tasks=names,
        data=data or [],
        corpora=corpus or [],
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        cluster=cluster,
        delimiter=delimiter,
        window=window,
        stride=stride,
        add_special_tokens=special_tokens,
        concurrency=concurrency,
        retries=retries,
        timeout=timeout,
        out=out or Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        resume=resume,
        quiet=quiet,
        until=until,
        seed=seed or 0,
        variant=variant,
        expected_counts=expected_counts,
        requests=requests or [],
    )
    try:
        with tracing("qconf-bench"):
            failed = run_bench(options, output())
    except (QconfError, TaskError, RunError) as exc:
        raise exit_with(f"error: {exc}", REFUSED) from exc
    except RuleFailed as exc:
        raise exit_with(str(exc), RULE_FAILED) from exc
    except Interrupted as exc:
        raise exit_with(str(exc), INTERRUPTED) from exc
    except Stopped as exc:
        raise exit_with(f"error: {exc}", SOME_FAILED) from exc
    except KeyboardInterrupt as exc:
        raise exit_with("interrupted before anything was sent", INTERRUPTED) from exc
    raise typer.Exit(SOME_FAILED if failed else 0)
