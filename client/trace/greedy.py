"""The base model's greedy continuation of a prompt, token by token from ``/compare``."""

from collections.abc import Collection, Sequence

from client.api import AsyncClient
from client.errors import BadReply
from client.trace.prompts import Prompt
from qconf.wire import Comparison

ANY_TOKEN = 0
"""What is scored makes no difference: the reply has the likeliest token of its place."""


class OtherModel(Exception):
    """The server has another base model than before."""


async def prompt_ids(client: AsyncClient, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
    """Return the token ids of a prompt."""
    if isinstance(prompt.prompt, list):
        return prompt.prompt
    if prompt.prompt is not None:
        return (await client.tokenize(prompt.prompt, add_special_tokens=add_special_tokens)).tokens
    return (await client.tokenize(messages=prompt.messages)).tokens


async def greedy(
    client: AsyncClient, prompt: Sequence[int], *, digest: str, most: int, ends: Collection[int]
) -> list[int]:
    """Return up to ``most`` tokens, each the base model's likeliest after those before it.

    The last may be one of ``ends``. Raises OtherModel where the base model's digest is another than ``digest``.
    """
    written: list[int] = []
    while len(written) < most and not (written and written[-1] in ends):
        reply = await client.compare(
            prompt=[*prompt, *written], continuations=[[ANY_TOKEN]], score_prompt=False, detail="tokens"
        )
        if reply.models.base.digest != digest:
            raise OtherModel(f"another base model is being served now: {reply.models.base.root}")
        written.append(_likeliest(reply))
    return written


def _likeliest(reply: Comparison) -> int:
    scores = reply.continuations[0].scores if reply.continuations else None
    argmax = scores.base.argmax[0] if scores else None
    if argmax is None:
        raise BadReply("the columns of the token are missing")
    return argmax
