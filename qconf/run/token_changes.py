"""Tokens that quantization makes likelier or rarer over a corpus, as they are in ``results.json``."""

from pydantic import BaseModel, ConfigDict, ValidationError

from qconf.run.folder import RESULTS, Run, RunError
from qconf.wire import problem


class TokenChange(BaseModel):
    """A token with its expected counts over the corpus, and the interval of quantized minus base."""

    model_config = ConfigDict(frozen=True)

    token_id: int
    text: str
    base: float
    quantized: float
    low: float
    high: float


class TokenChanges(BaseModel):
    """Tokens of the largest rise and fall, of all ``changed`` tokens, whose interval excludes 0.

    Intervals are those of ``qconf.statistics.expected_counts``, adjusted to the number of tokens in ``vocabulary``.
    """

    model_config = ConfigDict(frozen=True)

    positions: int
    clusters: int
    vocabulary: int
    changed: int
    likelier: list[TokenChange]
    rarer: list[TokenChange]

    def listed(self) -> list[tuple[str, TokenChange]]:
        """Return the tokens with "likelier" or "rarer" before each."""
        return [*(("likelier", each) for each in self.likelier), *(("rarer", each) for each in self.rarer)]


def token_changes_of(run: Run) -> dict[str, TokenChanges]:
    """Return the changes in each corpus of a run; empty for a replay without expected counts."""
    try:
        return {
            name: TokenChanges.model_validate(each["expected_counts"])
            for name, each in run.results["tasks"].items()
            if "expected_counts" in each
        }
    except (AttributeError, KeyError, TypeError, ValueError) as exc:  # pydantic's errors are ValueErrors
        reason = problem(exc.errors()).message if isinstance(exc, ValidationError) else f"{type(exc).__name__}: {exc}"
        raise RunError(f"{run.path / RESULTS} is not the results of a run: {reason}") from exc
