"""Windows of token ids over a text, as llama.cpp's perplexity tool cuts them.

Without a stride, windows are adjacent and each scores its second half except that half's first token, so that every
scored token has at least half a window of context. With a stride (llama.cpp's --ppl-stride), each window begins that
many tokens after the one before it and scores its last ``stride`` tokens. Where the tokenizer begins texts with a
special token, that token replaces the first of every window. Tokens after the last whole window are left out.
"""

from collections.abc import Sequence
from pathlib import Path

from client.api import Client
from client.bench.items import Item, LoadedTask, TaskError, Window, hash_text
from client.bench.sources.data import read, version
from qconf.run.columns import Kind

DEFAULT_WINDOW = 512


def load_corpus(
    path: Path,
    client: Client,
    *,
    window: int = DEFAULT_WINDOW,
    stride: int | None = None,
    add_special_tokens: bool = True,
    limit: int | None = None,
) -> LoadedTask:
    """Return a task named after the file, with a window per item; the server tokenizes."""
    content = read(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise TaskError(f"{path} is not UTF-8 text: byte {exc.start} is {content[exc.start]:#04x}") from exc
    reply = client.tokenize(text, add_special_tokens=add_special_tokens)
    if window > reply.max_model_len:
        raise TaskError(f"a window of {window} tokens is longer than the models' context of {reply.max_model_len}")
    first = client.tokenize("", add_special_tokens=add_special_tokens).tokens[:1]
    found = windows(reply.tokens, window, stride, first)[:limit]
    if not found:
        raise TaskError(f"{path} has {reply.count} tokens: expected at least {window + (stride is not None)} of them")
    items = tuple(window_item(path.stem, index, each) for index, each in enumerate(found))
    return LoadedTask(path.stem, version(content), 0, items)


def windows(token_ids: Sequence[int], window: int, stride: int | None, first: Sequence[int]) -> list[Window]:
    """Return all windows over the tokens. ``first`` has the token that begins every window, or is empty."""
    if stride is None:
        starts, scored = range(0, len(token_ids) - window + 1, window), window - window // 2 - 1
    else:
        starts, scored = range(0, len(token_ids) - window, stride), stride
    split = window - scored
    return [
        Window(
            context=[*first, *token_ids[start + len(first) : start + split]],
            scored=token_ids[start + split : start + window],
            position=start + split,
        )
        for start in starts
    ]


def cut(window: Window, longest: int, stride: int | None) -> list[Window]:
    """Return windows of at most ``longest`` tokens that score the same tokens, each once.

    The first is as long as possible, if the context leaves room. Each of the others begins with the first token of all,
    mostly the special one that begins texts, and scores its last ``stride`` tokens, by default its second half.
    """
    ids, before = [*window.context, *window.scored], len(window.context)
    step = stride or longest // 2
    found = []
    while before < len(ids):
        start = 0 if before < longest else before + step - longest
        end = min(start + longest, len(ids))
        context = [ids[0], *ids[start + 1 : before]]
        found.append(Window(context, ids[before:end], window.position + before - len(window.context)))
        before = end
    return found


def window_item(task: str, index: int, window: Window, kind: Kind = "window") -> Item:
    """Return the item of a window."""
    return Item(
        task=task,
        doc_id=index,
        kind=kind,
        doc_hash=hash_text(str((tuple(window.context), tuple(window.scored)))),
        prompt_hash=hash_text(str(tuple(window.context))),
        contexts=("",),
        choices=("",),
        choice_context=(0,),
        choice_chars=(0,),
        choice_bytes=(0,),
        window=window,
    )
