"""What the quantizer refuses, in one sentence."""


class QuantizeError(Exception):
    """The request cannot be met as given; the message is one sentence for the user."""


def one_line(exc: Exception) -> str:
    """Return another library's message without its line breaks."""
    return " ".join(str(exc).split())
