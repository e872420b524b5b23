"""Where mirrored calls come from: the values of the label ``source`` in metrics, which those who call cannot add to."""

from collections.abc import Sequence

MIRROR = "mirror"
"""Of calls of the mirror routes that name no source; those of /observe that name none have "observe"."""
OTHER = "other"
"""Of calls that name a source that was not declared."""
UNDECLARED = (MIRROR, "observe", OTHER)


def source_labels(declared: Sequence[str]) -> tuple[str, ...]:
    """Return all values of the label."""
    return (*UNDECLARED, *declared)
