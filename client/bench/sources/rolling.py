"""Windows of token ids over a document, as lm-eval's API models cut them for perplexity tasks."""

import importlib
from dataclasses import dataclass

from client.bench.items import Window
from client.bench.servers import Servers
from client.errors import BadReply


@dataclass(frozen=True)
class RollingWindows:
    """Windows of at most ``max_length - 1`` tokens of a text, which leaves room for the one that lm-eval generates.

    Each window except the first begins with the last token of the window before it; the first begins with ``prefix``,
    the tokenizer's token for the beginning of a text, otherwise for its end.
    """

    prefix: int
    max_length: int
    add_special_tokens: bool

    @classmethod
    async def made_for(cls, servers: Servers, max_length: int, add_special_tokens: bool) -> "RollingWindows":
        """Ask the server for the prefix token."""
        info = await servers.tokenizer_info()
        text = info.bos_token or info.eos_token
        if text is None:
            raise BadReply("the pair's tokenizer has no token that begins or ends a text: texts cannot be scored whole")
        prefix = (await servers.tokenize(text, add_special_tokens=False)).tokens[0]
        return cls(prefix, max_length, add_special_tokens)

    async def of(self, servers: Servers, text: str) -> list[Window]:
        """Return the windows of a text; each of its tokens is scored once."""
        utils = importlib.import_module("lm_eval.utils")
        tokens = (await servers.tokenize(text, add_special_tokens=self.add_special_tokens)).tokens
        pairs = utils.get_rolling_token_windows(
            token_list=tokens, prefix_token=self.prefix, max_seq_len=self.max_length - 2, context_len=1
        )
        windows, position = [], 0
        for context, scored in map(utils.make_disjoint_window, pairs):
            windows.append(Window(context, scored, position))
            position += len(scored)
        return windows
