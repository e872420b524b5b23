"""The base model's greedy continuation of a prompt, from ``/compare``."""

from collections.abc import Sequence

from client.api import AsyncClient
from client.errors import BadReply
from client.trace.prompts import Prompt

REQUEST_TOKENS = 256
"""Most tokens of one request: servers give up requests that take long, and a long text is not begun anew."""


class OtherModel(Exception):
    """The server has another base model than before."""


async def prompt_ids(client: AsyncClient, prompt: Prompt, *, add_special_tokens: bool) -> list[int]:
    """Return the token ids of a prompt."""
    if isinstance(prompt.prompt, list):
        return prompt.prompt
    if prompt.prompt is not None:
        return (await client.tokenize(prompt.prompt, add_special_tokens=add_special_tokens)).tokens
    return (await client.tokenize(messages=prompt.messages)).tokens


async def greedy(client: AsyncClient, prompt: Sequence[int], *, digest: str, most: int) -> list[int]:
    """Return up to ``most`` tokens, each the base model's likeliest after those before it.

    The last may be one that ends texts. Raises OtherModel where the base model's digest is another than ``digest``.
    """
    written: list[int] = []
    goes_on = True
    while goes_on and len(written) < most:
        reply = await client.compare(
            prompt=[*prompt, *written],
            max_tokens=min(most - len(written), REQUEST_TOKENS),
            generate_from="base",
            detail="summary",
        )
        if reply.models.base.digest != digest:
            raise OtherModel(f"another base model is being served now: {reply.models.base.root}")
        if reply.generation is None or reply.generation.base is None:
            raise BadReply("the base model's answer is missing")
        written += reply.generation.base.token_ids
        goes_on = reply.generation.base.finish_reason == "length"
    return written
