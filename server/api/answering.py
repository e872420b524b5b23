"""What OpenAI's two routes that generate have in common: how tokens are drawn, and from which model."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qconf.wire import Reply, Request, Text, invalid
from qconf.wire.fields import MAX_STOPS, MAX_TEMPERATURE, stop_texts
from server.engine.twin.rows import Rows
from server.scoring.generation import Answer, Drawing
from server.scoring.scored import MODELS

ONE = "One answer per prompt."
NOTHING_ELSE = "No other value: it would change the log-probabilities or the text."


class StreamOptions(Request):
    """What a stream has besides its chunks."""

    include_usage: bool = Field(default=False, description="Whether a last chunk has the token counts.")


class Answering(Request):
    """How answers are drawn; fields that would change nothing are accepted, those that would are not."""

    model: str = Field(description="'base', a quantized variant's name ('quantized': the first), or a real name.")
    temperature: float | None = Field(
        default=None, ge=0, le=MAX_TEMPERATURE, description="0 takes the likeliest token. Default: 1."
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="As in /compare.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="As in /compare.")
    stop: Annotated[list[Text], Field(max_length=MAX_STOPS, fail_fast=True)] | Text | None = Field(
        default=None, description="As in /compare."
    )
    ignore_eos: bool = Field(default=False, description="As in /compare; not OpenAI's.")
    stream: bool = Field(default=False, description="Whether the answer is sent as server-sent events as it comes.")
    stream_options: StreamOptions | None = Field(default=None, description="Needs 'stream'.")
    user: str | None = Field(default=None, description="Accepted and ignored.")
    n: Literal[1] = Field(default=1, description=ONE)
    logit_bias: None = Field(default=None, description=NOTHING_ELSE)
    presence_penalty: Literal[0] | None = Field(default=None, description=NOTHING_ELSE)
    frequency_penalty: Literal[0] | None = Field(default=None, description=NOTHING_ELSE)

    @model_validator(mode="after")
    def _check_answering(self) -> "Answering":
        stop_texts(self.stop)
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "'stream_options' needs 'stream'")
        return self

    @property
    def counts_are_sent(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def drawing(self, model: int, max_tokens: int, top: int) -> Drawing:
        """Return how the answers of one model, by its place in the list of models, are drawn."""
        return Drawing(
            models=(model,),
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stops=stop_texts(self.stop),
            ignore_eos=self.ignore_eos,
            top=top,
        )


class TokenCounts(Reply):
    """Token counts, as OpenAI names them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], answers: Sequence[Answer]) -> "TokenCounts":
        """Count the tokens of prompts and answers."""
        asked, drawn = sum(map(len, prompts)), sum(len(answer.places) for answer in answers)
        return cls(prompt_tokens=asked, completion_tokens=drawn, total_tokens=asked + drawn)


class Columns:
    """The columns of one model among the rows: the base's stand beside each variant's."""

    def __init__(self, model: int) -> None:
        self.variant = max(0, model - 1)
        self._role = min(1, model)

    def logprobs(self, rows: Rows) -> list[float]:
        """Return the log-probability of each row's token."""
        values: list[float] = rows[f"{MODELS[self._role]}_logprob"].tolist()
        return values

    def top(self, rows: Rows, k: int) -> list[list[tuple[int, float]]]:
        """Return each row's k likeliest tokens: ids and log-probabilities."""
        top = rows.top(self._role)
        return [
            list(zip(ids, logprobs, strict=True))
            for ids, logprobs in zip(top.ids[:, :k].tolist(), top.logprobs[:, :k].tolist(), strict=True)
        ]
