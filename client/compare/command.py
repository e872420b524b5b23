"""The command line of one comparison: options, exit codes, one sentence per error."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.api import DEFAULT_TIMEOUT, DEFAULT_URL, Client
from client.command_line import INTERRUPTED, REFUSED, Retries, Timeout, exit_with, output
from client.compare.display import print_comparison
from client.compare.growing import GrowingAnswers, watched
from client.errors import QconfError
from client.retry import RETRIES
from qconf.show.html import comparison_page
from qconf.show.quantities import QUANTITIES, QuantityName
from qconf.wire import Comparison, PairScores

STDIN = "-"

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def compare(
    prompt: Annotated[
        str, typer.Argument(help="The prompt; '-' reads it from standard input, without its last line break.")
    ],
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is a user's message, rendered with the chat template.")
    ] = False,
    continuation: Annotated[
        list[str] | None,
        typer.Option(help="A candidate continuation, usually with a space first. Repeat it to compare choices."),
    ] = None,
    label: Annotated[int | None, typer.Option(help="Index of the true continuation, from 0.", min=0)] = None,
    top: Annotated[
        int, typer.Option(help="Print tables of the tokens, with this many likeliest ones of either model.", min=0)
    ] = 0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of the answers to generate; 0: none are.", min=0)] = 0,
    generate_from: Annotated[
        str | None,
        typer.Option(help="Whose answer: base, a variant's name, or both.", show_default="both"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token.", show_default="0", min=0)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw only from the likeliest tokens that together have this probability.", show_default="1"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of what is drawn.", show_default="another each time", min=0)
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends an answer; may be repeated.")] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Let answers go on after a token that ends texts.")
    ] = False,
    quantity: Annotated[
        QuantityName,
        typer.Option(help="What the tokens' backgrounds show; of log-probability and confidence, the change."),
    ] = "kl",
    variant: Annotated[
        str | None,
        typer.Option(help="Name of the quantized variant to show.", show_default="the first"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the reply, as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="File to write the comparison to as a page, too.")] = None,
    url: Annotated[str, typer.Option(help="URL of the qconf server.")] = DEFAULT_URL,
    retries: Retries = RETRIES,
    timeout: Timeout = DEFAULT_TIMEOUT,
) -> None:
    """Compare a server's models on one prompt: its tokens, choices among continuations, generated answers.

    Without colours (in a pipe, or with NO_COLOR) the tokens are tables of numbers. The environment variable
    QCONF_API_KEY is the key for servers that ask for one.

    Exit codes: 0 all went well, 2 invalid input, refused or no answer, 130 interrupted.
    """
    generation = {
        "generate_from": generate_from,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
        "ignore_eos": ignore_eos or None,
    }
    given = [f"--{name.replace('_', '-')}" for name, value in generation.items() if value is not None]
    if given and not max_tokens:
        raise typer.BadParameter(f"{given[0]} is for answers: expected --max-tokens")
    text = _read_prompt() if prompt == STDIN else prompt
    fields: dict[str, Any] = {
        "messages" if chat else "prompt": [{"role": "user", "content": text}] if chat else text,
        "continuations": continuation or None,
        "label": label,
        "top_logprobs": top or None,
        "max_tokens": max_tokens or None,
        **generation,
    }
    given_fields = {name: value for name, value in fields.items() if value is not None}
    try:
        with Client(url, timeout=timeout, retries=retries) as client:
            if max_tokens and sys.stdout.isatty() and not as_json:
                growing = GrowingAnswers(QUANTITIES[quantity], variant)
                reply = watched(output(), client.stream_compare(**given_fields), growing)
            else:
                reply = client.compare(**given_fields)
    except QconfError as exc:
        raise exit_with(f"error: {exc}", REFUSED) from exc
    except KeyboardInterrupt as exc:
        raise exit_with("interrupted", INTERRUPTED) from exc
    scores = reply if variant is None else _of_variant(reply, variant)
    if html is not None:
        _write(html, comparison_page(scores, QUANTITIES[quantity]))
    if as_json:
        print(reply.model_dump_json(exclude_unset=True))
    else:
        print_comparison(output(), scores, QUANTITIES[quantity], tables=top > 0)


def _read_prompt() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as exc:
        found = f"byte {exc.start} is {exc.object[exc.start]:#04x}"
        raise exit_with(f"error: standard input is not UTF-8 text: {found}", REFUSED) from exc


def _of_variant(reply: Comparison, name: str) -> PairScores:
    try:
        return reply.of(name)
    except KeyError as exc:
        names = ", ".join([reply.models.quantized.id, *reply.variants])
        raise exit_with(f"error: --variant is {name!r}, expected one of the server's: {names}", REFUSED) from exc


def _write(path: Path, page: str) -> None:
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as exc:
        raise exit_with(f"error: --html cannot be written: {exc}", REFUSED) from exc
