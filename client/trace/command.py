"""The command line of the trace: options, exit codes, one sentence per error."""

from pathlib import Path
from typing import Annotated

import typer

from client.api import DEFAULT_URL
from client.bench.items import TaskError
from client.command_line import INTERRUPTED, REFUSED, SOME_FAILED, Retries, Timeout, exit_with
from client.errors import QconfError
from client.trace.writing import Interrupted, Stopped, TraceOptions, write_trace
from qconf.run.folder import RunError
from qconf.tracing import tracing

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def trace(
    prompts: Annotated[
        Path, typer.Option(help="JSON lines with prompt or messages (NAME.jsonl), or a text with a prompt per line.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, NAME.jsonl: a record of token ids per prompt.")],
    url: Annotated[str, typer.Option(help="URL of the qconf server.")] = DEFAULT_URL,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens after which a text ends, unless the model ends it before.", min=1)
    ] = 128,
    concurrency: Annotated[int, typer.Option(help="Texts in progress at once.", min=1)] = 32,
    special_tokens: Annotated[
        bool,
        typer.Option(help="Let the tokenizer add its special tokens, such as a leading BOS, to prompts that are text."),
    ] = True,
    retries: Retries = 20,
    timeout: Timeout = 600.0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue --out, or start it if there is none; finished texts are kept.")
    ] = False,
) -> None:
    """Let the base model of a server answer prompts greedily, and write the answers as a corpus of token ids.

    The corpus is for 'client.bench --corpus'. Prompts with the same tokens are answered once.

    Exit codes: 0 all went well, 1 the server went away, 2 invalid input or refused, 130 interrupted.
    """
    options = TraceOptions(
        url=url,
        prompts=prompts,
        out=out,
        max_tokens=max_tokens,
        add_special_tokens=special_tokens,
        concurrency=concurrency,
        retries=retries,
        timeout=timeout,
        resume=resume,
    )
    try:
        with tracing("qconf-trace"):
            write_trace(options, lambda line: print(line, flush=True))
    except (QconfError, TaskError, RunError) as exc:
        raise exit_with(f"error: {exc}", REFUSED) from exc
    except Interrupted as exc:
        raise exit_with(str(exc), INTERRUPTED) from exc
    except Stopped as exc:
        raise exit_with(f"error: {exc}", SOME_FAILED) from exc
    except KeyboardInterrupt as exc:
        raise exit_with("interrupted before anything was sent", INTERRUPTED) from exc
