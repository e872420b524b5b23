"""The text of an answer, token by token, up to a stop text."""

from collections.abc import Callable, Sequence

TAIL = 6
"""Tokens of the context that decide how the first ones of an answer are decoded, as whether a space precedes them."""
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class AnswerText:
    """Grows with each token. A character whose bytes are spread over tokens comes with the last of them.

    A token's text can depend on those before it. So each time, the tokens since the last complete character are
    decoded together, once without and once with the new ones; the difference is what they add.
    """

    def __init__(self, decode: Callable[[list[int]], str], context: list[int], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._before = context[-TAIL:]
        self._new: list[int] = []
        self._sent = 0
        self.text = ""
        self.stopped = False

    def copy(self) -> "AnswerText":
        """Return a text that goes on from here on its own."""
        other = AnswerText(self._decode, self._before, self._stops)
        other._new, other._sent, other.text = list(self._new), self._sent, self.text
        return other

    def add(self, token_id: int) -> str:
        """Add a token, and return what the text grows by for certain: nothing while a stop text may have begun."""
        self._new.append(token_id)
        grown = self._grown()
        if not grown or grown.endswith(INCOMPLETE):
            return ""
        self._take(grown)
        self._before, self._new = self._new, []
        return self._send(len(self.text) - self._held_back())

    def finish(self) -> str:
        """Return the rest, with what is there of an incomplete character."""
        if self._new and not self.stopped:
            self._take(self._grown())
        return self._send(len(self.text))

    def _grown(self) -> str:
        return self._decode(self._before + self._new)[len(self._decode(self._before)) :]

    def _take(self, grown: str) -> None:
        begin = len(self.text)
        self.text += grown
        found = [self.text.find(stop, max(0, begin - len(stop) + 1)) for stop in self._stops]
        if any(at >= 0 for at in found):
            self.text = self.text[: min(at for at in found if at >= 0)]
            self.stopped = True

    def _held_back(self) -> int:
        """Return how many of the last characters may be the beginning of a stop text."""
        if self.stopped:
            return 0
        ends = (n for stop in self._stops for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return max(ends, default=0)

    def _send(self, end: int) -> str:
        part, self._sent = self.text[self._sent : end], max(self._sent, end)
        return part
