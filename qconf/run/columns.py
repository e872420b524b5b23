"""Columns of a run's tables: the only place that lists them.

The fields of ``ItemResult`` are the columns of ``items.parquet`` in their order, ``TOKEN_COLUMNS`` are the columns of
``tokens.parquet``, ``COUNT_COLUMNS`` those of ``expected_counts.parquet``, the fields of ``AnswerResult`` those of
``answers.parquet``; schemas, the files' documentation and what a replay's journal keeps are derived from them. "Per
choice" means a list with one entry per choice, in the order of the task. Log-probabilities and divergences are in nats.
Confidences of choices are not stored: they are the softmax of an item's log-probabilities. Where an item failed,
``error`` has the reason, its lists of scores are empty and its divergences null.

A new column is nullable: older runs have no values for it, and are read with nulls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, NamedTuple, get_args

import pyarrow as pa  # type: ignore[import-untyped]

Kind = Literal[
    "multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until", "window", "record", "trace"
]
"""Kind of an item's requests."""
OF_CORPORA: tuple[Kind, ...] = ("window", "record", "trace")
"""Kinds of items whose tokens are in ``tokens.parquet``."""


class Column(NamedTuple):
    """Type and meaning of a column; ``score`` marks one that a replay measures and its journal keeps."""

    type: pa.DataType
    meaning: str
    score: bool = False


def _per_choice(type_: pa.DataType, nullable: bool = False) -> pa.DataType:
    return pa.list_(pa.field("element", type_, nullable))


TEXT, INTEGER, FLOAT, SINGLE = pa.string(), pa.int64(), pa.float64(), pa.float32()
TEXTS, INTEGERS, FLOATS, FLAGS = map(_per_choice, (TEXT, INTEGER, FLOAT, pa.bool_()))
NULLABLE_FLOATS = _per_choice(FLOAT, nullable=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """One row of ``items.parquet``: each field carries its column, which is nullable where the field may be None."""

    task: Annotated[str, Column(TEXT, "name of the task, or of the file it was made from")]
    doc_id: Annotated[int, Column(INTEGER, "position of the document in the task's split, of the item in the file")]
    kind: Annotated[
        Kind,
        Column(
            TEXT,
            "multiple_choice; loglikelihood: one continuation; loglikelihood_rolling: a whole text; "
            "generate_until: an answer of each model, in answers.parquet; "
            "window: of a text; record: of token ids; trace: a record that is the base model's own greedy text",
        ),
    ]
    doc_hash: Annotated[str, Column(TEXT, "SHA-256 of the document, as in lm-eval's sample logs")]
    prompt_hash: Annotated[str, Column(TEXT, "SHA-256 of the context, few-shot examples included, as in lm-eval")]
    label: Annotated[
        int | None, Column(INTEGER, "index of the true choice; null where the task names none, or several")
    ]
    n_choices: Annotated[int, Column(INTEGER, "number of choices; 1 except for multiple_choice, 0 for generate_until")]
    contexts: Annotated[Sequence[str], Column(TEXTS, "the distinct contexts of the choices, mostly only one")]
    choices: Annotated[Sequence[str], Column(TEXTS, "per choice: the text that was scored after its context")]
    choice_context: Annotated[Sequence[int], Column(INTEGERS, "per choice: index of its context")]
    base_logprob: Annotated[
        Sequence[float], Column(FLOATS, "per choice: summed log-probability, base model", score=True)
    ] = ()
    quantized_logprob: Annotated[
        Sequence[float], Column(FLOATS, "per choice: the same, quantized model", score=True)
    ] = ()
    choice_chars: Annotated[
        Sequence[int],
        Column(INTEGERS, "per choice: characters, as lm-eval's acc_norm counts them: no delimiter"),
    ]
    choice_bytes: Annotated[Sequence[int], Column(INTEGERS, "per choice: bytes of UTF-8, no delimiter")]
    choice_tokens: Annotated[
        Sequence[int],
        Column(INTEGERS, "per choice: number of scored tokens; a choice without any has null divergences", score=True),
    ] = ()
    base_is_greedy: Annotated[
        Sequence[bool], Column(FLAGS, "per choice: every token was the base model's likeliest", score=True)
    ] = ()
    quantized_is_greedy: Annotated[
        Sequence[bool], Column(FLAGS, "per choice: the same, quantized model", score=True)
    ] = ()
    choice_mean_kl: Annotated[
        Sequence[float | None],
        Column(NULLABLE_FLOATS, "per choice: mean KL(base || quantized) of tokens", score=True),
    ] = ()
    choice_max_kl: Annotated[
        Sequence[float | None],
        Column(NULLABLE_FLOATS, "per choice: largest KL(base || quantized)", score=True),
    ] = ()
    base_unconditional: Annotated[
        Sequence[float],
        Column(
            FLOATS,
            "per choice: summed log-probability without the context, base model; "
            "empty except for lm-eval's acc_mutual_info",
            score=True,
        ),
    ] = ()
    quantized_unconditional: Annotated[
        Sequence[float], Column(FLOATS, "per choice: the same, quantized model", score=True)
    ] = ()
    mean_kl: Annotated[
        float | None, Column(FLOAT, "mean KL(base || quantized) over the tokens of all choices, or answers", score=True)
    ] = None
    max_kl: Annotated[float | None, Column(FLOAT, "largest KL(base || quantized) over the same tokens", score=True)] = (
        None
    )
    doc: Annotated[str | None, Column(TEXT, "the document as the task has it, JSON; null for corpora")] = None
    target: Annotated[str | None, Column(TEXT, "its answer as the task has it")] = None
    cluster: Annotated[
        str | None, Column(TEXT, "value that the items of a cluster share, such as a passage; null if unknown")
    ] = None
    base_metrics: Annotated[
        str | None,
        Column(TEXT, "lm-eval's metrics of the item by filter, base model, JSON"),
    ] = None
    quantized_metrics: Annotated[str | None, Column(TEXT, "the same, quantized model")] = None
    error: Annotated[str | None, Column(TEXT, "why the item failed; null where it did not", score=True)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerResult:
    """One row of ``answers.parquet``: the answers of both models to the prompt of an item."""

    task: Annotated[str, Column(TEXT, "name of the task")]
    doc_id: Annotated[int, Column(INTEGER, "position of the document in the task's split")]
    base_text: Annotated[str, Column(TEXT, "the base model's answer, without the text that ended it", score=True)]
    quantized_text: Annotated[str, Column(TEXT, "the quantized model's answer", score=True)]
    base_tokens: Annotated[int, Column(INTEGER, "tokens that the base model generated", score=True)]
    quantized_tokens: Annotated[int, Column(INTEGER, "the same, quantized model", score=True)]
    base_finish_reason: Annotated[
        str, Column(TEXT, "stop: a text of the task's or the model's end of text; length: most tokens", score=True)
    ]
    quantized_finish_reason: Annotated[str, Column(TEXT, "the same, quantized model", score=True)]
    common_prefix: Annotated[
        int, Column(INTEGER, "equal tokens before the answers part; all of them where they are equal", score=True)
    ]
    acceptance: Annotated[
        float,
        Column(FLOAT, "mean of 1 - total variation over the tokens of the quantized model's answer", score=True),
    ]
    base_mean_kl: Annotated[
        float, Column(FLOAT, "mean KL(base || quantized) over the tokens of the base model's answer", score=True)
    ]
    quantized_mean_kl: Annotated[
        float, Column(FLOAT, "the same over the tokens of the quantized model's answer", score=True)
    ]
    base_filtered: Annotated[
        str | None, Column(TEXT, "the base model's answer after each of lm-eval's filters, JSON; null if they failed")
    ] = None
    quantized_filtered: Annotated[str | None, Column(TEXT, "the same, quantized model")] = None

    @property
    def equal(self) -> bool:
        """Whether the answers are the same text."""
        return self.base_text == self.quantized_text

    @property
    def agree(self) -> bool | None:
        """Whether the answers are the same after each of lm-eval's filters; None where these failed."""
        return None if self.base_filtered is None else self.base_filtered == self.quantized_filtered


TOKEN_COLUMNS = {
    "task": Column(TEXT, "name of the file that holds the corpus"),
    "doc_id": Column(INTEGER, "number of the window, or of the record, that the token was scored in"),
    "position": Column(INTEGER, "position of the token in the text; in a record, from its first scored token on"),
    "token_id": Column(INTEGER, "the token"),
    "base_logprob": Column(SINGLE, "log-probability of the token, base model"),
    "quantized_logprob": Column(SINGLE, "the same, quantized model"),
    "kl": Column(SINGLE, "KL(base || quantized) of the distributions that predict the token"),
    "reverse_kl": Column(SINGLE, "KL(quantized || base)"),
    "js": Column(SINGLE, "Jensen-Shannon divergence"),
    "total_variation": Column(SINGLE, "total variation, half the sum of |q - p|; null in runs of earlier versions"),
    "base_entropy": Column(SINGLE, "entropy of the base model's distribution"),
    "quantized_entropy": Column(SINGLE, "the same, quantized model"),
    "base_confidence": Column(SINGLE, "largest probability, base model"),
    "quantized_confidence": Column(SINGLE, "the same, quantized model"),
    "base_argmax": Column(INTEGER, "the token with the largest probability, base model"),
    "quantized_argmax": Column(INTEGER, "the same, quantized model"),
}

COUNT_COLUMNS = {
    "task": Column(TEXT, "name of the file that holds the corpus"),
    "token_id": Column(INTEGER, "a token of the vocabulary"),
    "base": Column(FLOAT, "its probability summed over the corpus's scored positions, base model"),
    "quantized": Column(FLOAT, "the same, quantized model"),
    "standard_error": Column(FLOAT, "of quantized minus base, over windows or records; null if there is only one"),
}


def _columns(row: type) -> dict[str, Column]:
    return {each.name: get_args(each.type)[1] for each in fields(row)}


def _nullable(row: type) -> set[str]:
    return {each.name for each in fields(row) if type(None) in get_args(get_args(each.type)[0])}


def _schema(columns: Mapping[str, Column], nullable: set[str]) -> pa.Schema:
    return pa.schema(
        [pa.field(name, each.type, name in nullable, {"description": each.meaning}) for name, each in columns.items()]
    )


def _scores(row: type) -> tuple[str, ...]:
    return tuple(name for name, each in _columns(row).items() if each.score)


ITEM_SCHEMA = _schema(_columns(ItemResult), _nullable(ItemResult))
ANSWER_SCHEMA = _schema(_columns(AnswerResult), _nullable(AnswerResult))
TOKEN_SCHEMA = _schema(TOKEN_COLUMNS, {"total_variation"})
COUNT_SCHEMA = _schema(COUNT_COLUMNS, {"standard_error"})
SCORES, ANSWER_SCORES = _scores(ItemResult), _scores(AnswerResult)
"""Columns that a replay measures and its journal keeps. The others come from the task."""
