"""Statistics that are judged item by item are the same as in the analysis of a whole run."""

import math

import numpy as np
import pytest

from eval.analysis.items import analyse
from qconf.item_rules import item_statistic
from qconf.rules import Rule
from qconf.run.choices import Choices, EvalError, read_choices
from qconf.run.folder import read_run
from qconf.run.quantities import OF_A_MODEL, OF_THE_PAIR
from tests.synthetic_run import items, write


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Choices:
    rows = items("four", 60, seed=1) + items("two", 40, seed=2, choices=2, noise=2.0)
    return read_choices(read_run(write(tmp_path_factory.mktemp("runs") / "run", rows)))


@pytest.mark.parametrize("of", ["base", "quantized", "delta"])
@pytest.mark.parametrize("name", OF_A_MODEL)
def test_values_of_a_model_have_the_mean_of_the_analysis(choices: Choices, name: str, of: str) -> None:
    statistic = item_statistic(Rule(statistic=name, of=of, at_most=0.5))  # type: ignore[arg-type]
    values = statistic.values(choices)
    assert statistic.name == f"{of} {name}"
    compared = analyse(choices, np.random.default_rng(0), resamples=2).compared
    if name == "overconfidence":
        parts = compared["confidence"], compared["accuracy"]
        expected = getattr(parts[0], of).point - getattr(parts[1], of).point
    else:
        expected = getattr(compared[name], of).point
    assert values.mean() == pytest.approx(expected, abs=1e-12)
    assert ((values >= statistic.low) & (values <= statistic.high)).all()


@pytest.mark.parametrize("name", OF_THE_PAIR)
def test_values_of_the_pair_have_the_mean_of_the_analysis(choices: Choices, name: str) -> None:
    statistic = item_statistic(Rule(statistic=name, at_most=0.5))
    values = statistic.values(choices)
    expected = analyse(choices, np.random.default_rng(0), resamples=2).pair[name].point
    assert values.mean() == pytest.approx(expected, abs=1e-12)
    assert ((values >= statistic.low) & (values <= statistic.high)).all()


@pytest.mark.parametrize("name", [*OF_A_MODEL, *OF_THE_PAIR])
def test_an_item_alone_has_the_value_that_it_has_among_others(choices: Choices, name: str) -> None:
    statistic = item_statistic(Rule(statistic=name, at_most=0.5))
    alone = [statistic.values(choices.where(np.arange(len(choices)) == i)) for i in range(len(choices))]
    assert np.concatenate(alone) == pytest.approx(statistic.values(choices), abs=1e-12)


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_bounds_are_those_of_models_that_know_nothing_or_all(name: str) -> None:
    """Equal shares of five choices, and all of the confidence in one, right and wrong: the bounds are reached."""
    logprobs = np.array([np.zeros(5), np.zeros(5), [0.0, -800, -800, -800, -800], [-800.0, 0.0, -800, -800, -800]])
    items = Choices(
        tasks=("task",),
        task=np.zeros(4, np.int64),
        doc_id=np.arange(4),
        labels=np.array([0, 1, 0, 0]),
        sizes=np.full(4, 5),
        base_logprobs=logprobs,
        quantized_logprobs=logprobs,
        chars=np.ones((4, 5), np.int64),
    )
    quantity = OF_A_MODEL[name]
    values, (low, high) = quantity.values(items, items.base).astype(float), quantity.bounds(5)
    assert values.min() == pytest.approx(low, abs=1e-12)
    assert values.max() == pytest.approx(high if name != "nll" else 800)
    wider = quantity.bounds(math.inf)
    assert wider[0] <= low < high <= wider[1]


def test_models_that_could_not_differ_more_are_at_the_bounds() -> None:
    sure = np.array([[0.0, -800.0]])
    choices = Choices(
        tasks=("task",),
        task=np.zeros(1, np.int64),
        doc_id=np.zeros(1, np.int64),
        labels=np.zeros(1, np.int64),
        sizes=np.full(1, 2),
        base_logprobs=sure,
        quantized_logprobs=sure[:, ::-1],
        chars=np.ones((1, 2), np.int64),
    )
    for name, bound in (("accuracy", -1), ("true_confidence", -1), ("brier", 2), ("overconfidence", 1), ("margin", 0)):
        assert item_statistic(Rule(statistic=name, at_most=0.5)).values(choices) == pytest.approx([bound])
    for name in ("flips", "right_to_wrong", "net_loss", "total_variation", "js", "js_distance"):
        statistic = item_statistic(Rule(statistic=name, at_most=0.5))
        assert statistic.values(choices) == pytest.approx([statistic.high])


REFUSED = [
    pytest.param({"statistic": "ece"}, "'ece' cannot be judged item by item, expected one of acc_norm, acc", id="ece"),
    pytest.param({"statistic": "auroc"}, "'auroc' cannot be judged item by item", id="auroc"),
    pytest.param({"statistic": "acuracy"}, "'acuracy' cannot be judged item by item", id="misspelt"),
    pytest.param({"statistic": "accuracy", "judge": "point"}, "judged by its point", id="point"),
    pytest.param({"statistic": "accuracy", "over_floor": True}, "is over the floor", id="floor"),
    pytest.param({"statistic": "kl", "corpus": "text"}, "of the corpus .text. cannot be judged item", id="text"),
    pytest.param({"statistic": "flips", "of": "delta"}, 'leave out of = "delta"', id="of"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_cannot_be_judged_item_by_item_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(EvalError, match=message):
        item_statistic(Rule.model_validate(fields | {"at_most": 0.5}))
