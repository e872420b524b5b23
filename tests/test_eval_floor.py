"""The noise floor: what may be one, its numbers against loops, coverage of its intervals, and rules over it."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from scipy import stats  # type: ignore[import-untyped]

from eval.analysis.floor import Floor, ItemFloor, item_floor
from eval.analysis.run import RunAnalysis, analyse_run
from eval.analysis.token_floor import NAMES, aligned, token_floor, token_kl
from eval.gate import judge
from eval.report.sentences import floor_note
from eval.report.verdict import sentences
from qconf.rules import read_rules
from qconf.run.choices import Choices, EvalError, read_choices
from qconf.run.columns import ItemResult
from qconf.run.folder import TOKENS, Import, Manifest, read_run
from tests.synthetic_run import again, items, later, tokens, window, write
from tests.test_results import manifest

ROWS = [*items("boolq", 80, 1, choices=2), *items("piqa", 120, 2), *(window("text", i) for i in range(12))]


def second_tokens(seed: int, noise: float = 0.02) -> pa.Table:
    """Return the tokens of the corpus measured again."""
    table, rng = tokens("text", 12, 40, 3), np.random.default_rng(seed)
    for name in ("base_logprob", "quantized_logprob"):
        moved = np.minimum(np.asarray(table[name]) + rng.normal(0, noise, len(table)), 0).astype(np.float32)
        table = with_column(table, name, moved)
    return with_column(
        table, "base_argmax", np.where(rng.random(len(table)) < 0.1, 5, np.asarray(table["base_argmax"]))
    )


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values).cast(table.schema.field(name).type))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "first", ROWS, tokens("text", 12, 40, 3))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = again(ROWS, 4, base=0.2, quantized=0.05)
    # The order of items and of tasks does not matter.
    return write(tmp_path_factory.mktemp("runs") / "second", rows[::-1], second_tokens(5), about=later())


@pytest.fixture(scope="module")
def run(folder: Path, second: Path) -> RunAnalysis:
    return analyse_run(folder, floor=second, resamples=200)


def floor_of(run: RunAnalysis) -> Floor:
    assert run.floor is not None
    return run.floor


def overall_of(run: RunAnalysis) -> ItemFloor:
    found = floor_of(run).overall
    assert found is not None
    return found


def labelled(path: Path) -> Choices:
    return read_choices(read_run(path)).labelled


def test_floors_and_excess_are_those_of_a_loop_over_the_items(run: RunAnalysis, folder: Path, second: Path) -> None:
    rows = {(row.task, row.doc_id): row for row in read_run(second).items()}
    pairs: dict[str, list[tuple[float, float, float]]] = {"base": [], "quantized": [], "pair": []}
    for row in read_run(folder).items():
        if row.kind == "window" or row.label is None:
            continue
        other = rows[row.task, row.doc_id]
        for name, first, then in (
            ("base", row.base_logprob, other.base_logprob),
            ("quantized", row.quantized_logprob, other.quantized_logprob),
            ("pair", row.base_logprob, row.quantized_logprob),
        ):
            p, q = (np.exp(each) / np.exp(each).sum() for each in map(np.asarray, (first, then)))
            flip = float(p.argmax() != q.argmax())
            pairs[name].append((flip, float(stats.entropy(p, q)), abs(q[row.label] - p[row.label])))
    means = {name: np.mean(values, axis=0) for name, values in pairs.items()}
    floor = overall_of(run)
    for at, name in enumerate(("flips", "kl", "confidence_shift")):
        assert floor.base[name].point == pytest.approx(means["base"][at])
        assert floor.quantized[name].point == pytest.approx(means["quantized"][at])
        # The smaller floor is subtracted.
        assert means["quantized"][at] < means["base"][at]
        assert floor.taken[name] == "quantized"
        assert floor.excess[name].point == pytest.approx(means["pair"][at] - means["quantized"][at])
        assert floor.excess[name].low < floor.excess[name].point < floor.excess[name].high
    accuracy = np.mean(labelled(second).base.correct) - np.mean(labelled(folder).base.correct)
    assert floor.base["accuracy"].point == pytest.approx(accuracy)
    assert "accuracy" not in floor.excess
    assert list(floor_of(run).tasks) == ["boolq", "piqa"]


def test_intervals_of_the_excess_cover_what_they_should() -> None:
    """Quantization adds noise, and so does measuring: 95 % of intervals hold the true excess of KL and of flips."""
    rng, repeats = np.random.default_rng(0), 150

    def pair(count: int) -> tuple[Choices, Choices]:
        base = rng.normal(0, 1.5, (count, 3))
        quantized = base + rng.normal(0, 0.5, base.shape)
        first = Choices(
            tasks=("task",),
            task=np.zeros(count, np.int64),
            doc_id=np.arange(count),
            labels=rng.integers(3, size=count),
            sizes=np.full(count, 3),
            base_logprobs=base,
            quantized_logprobs=quantized,
            chars=np.full(base.shape, 1),
        )
        noise = rng.normal(0, [[[0.2]], [[0.3]]], (2, *base.shape))
        other = dataclasses.replace(first, base_logprobs=base + noise[0], quantized_logprobs=quantized + noise[1])
        return first, other

    truth = item_floor(*pair(400_000))
    assert truth.taken == dict.fromkeys(truth.taken, "base")
    covered = {"kl": 0, "flips": 0}
    for _ in range(repeats):
        found = item_floor(*pair(300))
        for name in covered:
            covered[name] += found.excess[name].low <= truth.excess[name].point <= found.excess[name].high
    # Of 150 intervals of 95 %, fewer than these cover once in 1,000 times.
    assert min(covered.values()) >= stats.binom.ppf(0.001, repeats, 0.95)


def refused(folder: Path, floor: Path) -> str:
    with pytest.raises(EvalError) as caught:
        analyse_run(folder, floor=floor, resamples=100)
    return str(caught.value)


def test_a_run_is_not_its_own_floor(folder: Path, tmp_path: Path) -> None:
    assert "is the run itself, expected a second run" in refused(folder, folder)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert "is the run itself" in refused(folder, link)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert "created at the same time, 2025-03-01T12:00:00.000+00:00: expected a second run" in refused(folder, copy)


def changed(**fields: Any) -> list[ItemResult]:
    """Return the rows with another value in one of them."""
    return [*ROWS[:-13], dataclasses.replace(ROWS[-13], **fields), *ROWS[-12:]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:40] + ROWS[41:], "document 40 of 'boolq' is in"),
        ([*ROWS, *items("extra", 3, 0)], "document 0 of 'extra' is in"),
        (changed(doc_hash="other"), "document 119 of 'piqa' has the doc_hash other in"),
        (changed(prompt_hash="other"), "has the prompt_hash other in"),
        (changed(label=None), "has the label None in"),
        (changed(choices=[" a", " b", " c", " d"]), "has the choice  a in"),
        (
            changed(choices=[" a"], n_choices=1, base_logprob=[-1.0], quantized_logprob=[-1.0]),
            "number of choices 1 in",
        ),
    ],
)
def test_other_documents_are_no_floor(folder: Path, tmp_path: Path, rows: list[ItemResult], message: str) -> None:
    floor = write(tmp_path / "floor", rows, tokens("text", 12, 40, 3), about=later())
    found = refused(folder, floor)
    assert message in found
    assert str(floor) in found


def about(**fields: Any) -> Manifest:
    """Return the manifest of a later run with a change in its subject."""
    subject = later().subject
    assert subject is not None
    return later().model_copy(update={"subject": subject.model_copy(update=fields)})


@pytest.mark.parametrize("role", ["base", "quantized"])
def test_other_models_are_no_floor(folder: Path, tmp_path: Path, role: str) -> None:
    subject = manifest().subject
    assert subject is not None
    model = getattr(subject.models, role).model_copy(update={"root": "other/model", "digest": "0123"})
    described = about(models=subject.models.model_copy(update={role: model}))
    floor = write(tmp_path / "floor", ROWS, tokens("text", 12, 40, 3), about=described)
    assert f"the {role} model of the floor {floor} is another one: other/model with digest 0123" in refused(
        folder, floor
    )


def test_other_contexts_are_no_floor(folder: Path, tmp_path: Path) -> None:
    subject = manifest().subject
    assert subject is not None
    described = about(settings=subject.settings.model_copy(update={"add_special_tokens": False}))
    floor = write(tmp_path / "floor", ROWS, tokens("text", 12, 40, 3), about=described)
    assert "has add_special_tokens False, expected the run's, True" in refused(folder, floor)


def test_of_imported_runs_models_are_not_checked_and_that_is_said(tmp_path: Path) -> None:
    rows = ROWS[:-12]

    def imported(created: str, file: str) -> Manifest:
        files = Import(base=[f"{file}_base.jsonl"], quantized=[f"{file}_quantized.jsonl"])
        return manifest().model_copy(update={"created": created, "subject": None, "timing": None, "imported": files})

    run = write(tmp_path / "run", rows, about=imported("1", "first"))
    floor = write(tmp_path / "floor", again(rows, 1, base=0.1, quantized=0.1), about=imported("2", "second"))
    found = analyse_run(run, floor=floor, resamples=100)
    assert not floor_of(found).same_models
    assert floor_of(found).ways == []
    assert "Imported runs have no digests" in floor_note(floor_of(found))
    assert any("imported runs have no digests" in each for each in sentences(found))
    same = write(tmp_path / "same", rows, about=imported("3", "first"))
    assert "was imported from the same files as" in refused(run, same)


def test_what_was_measured_in_another_way_is_said(folder: Path, tmp_path: Path) -> None:
    subject = manifest().subject
    assert subject is not None
    base = subject.models.base.model_copy(update={"dtype": "float16"})
    described = about(models=subject.models.model_copy(update={"base": base}))
    floor = write(tmp_path / "floor", ROWS, tokens("text", 12, 40, 3), about=described)
    found = analyse_run(folder, floor=floor, resamples=100)
    assert floor_of(found).ways == ["dtype float16 instead of bfloat16"]
    assert "dtype float16 instead of bfloat16" in floor_note(floor_of(found))
    # The same numbers again: nothing is subtracted.
    assert overall_of(found).base["kl"].point == 0
    assert found.overall is not None
    assert overall_of(found).excess["kl"].point == found.overall.pair["kl"].point


def test_the_kl_of_an_event_is_scipys_and_never_above_that_of_all_tokens() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(50, 0.3), 200), rng.dirichlet(np.full(50, 0.3), 200)
    token = rng.integers(50, size=200)
    one, other = (np.maximum(each[np.arange(200), token], 1e-12) for each in (p, q))
    found = token_kl(np.log(one), np.log(other))
    assert found == pytest.approx(stats.entropy([one, 1 - one], [other, 1 - other]), rel=1e-6, abs=1e-9)
    whole = stats.entropy(np.maximum(p, 1e-12), np.maximum(q, 1e-12), axis=1)
    assert (found <= whole + 1e-9).all()
    # A probability that float32 rounds to 1 does not make the divergence infinite.
    assert np.isfinite(token_kl(np.array([-0.01, 0.0, 0.0]), np.array([0.0, -0.01, 0.0]))).all()
    assert token_kl(np.array([0.0, -1.0]), np.array([0.0, -1.0])).tolist() == [0.0, 0.0]


def test_floors_of_a_corpus_are_those_of_a_loop_over_its_tokens(run: RunAnalysis, folder: Path, second: Path) -> None:
    first, then = (read_run(each).tokens.to_pylist() for each in (folder, second))  # type: ignore[union-attr]
    sums = {name: dict.fromkeys(NAMES, 0.0) for name in ("base", "quantized", "pair")}
    for one, other in zip(first, then, strict=True):
        for name, (a, role), (b, with_role) in (
            ("base", (one, "base"), (other, "base")),
            ("quantized", (one, "quantized"), (other, "quantized")),
            ("pair", (one, "base"), (one, "quantized")),
        ):
            p, q = (np.exp(min(each, -1e-7)) for each in (a[f"{role}_logprob"], b[f"{with_role}_logprob"]))
            sums[name]["top_changed"] += a[f"{role}_argmax"] != b[f"{with_role}_argmax"]
            sums[name]["abs_delta_p"] += abs(q - p)
            sums[name]["abs_delta_logprob"] += abs(b[f"{with_role}_logprob"] - a[f"{role}_logprob"])
            sums[name]["token_kl"] += stats.entropy([p, 1 - p], [q, 1 - q])
    found, count = floor_of(run).corpora["text"], len(first)
    assert (found.tokens, found.windows) == (count, 12)
    for name in NAMES:
        means = {each: total[name] / count for each, total in sums.items()}
        assert found.base[name].point == pytest.approx(means["base"], rel=1e-4)
        assert found.quantized[name].point == pytest.approx(means["quantized"], rel=1e-4)
        smaller = min(means["base"], means["quantized"])
        assert found.excess[name].point == pytest.approx(means["pair"] - smaller, rel=1e-4)
    kl = np.mean([each["kl"] for each in first])
    least = min(sums["base"]["token_kl"], sums["quantized"]["token_kl"]) / count
    assert found.excess["kl"].point == pytest.approx(kl - least, rel=1e-5)
    assert found.kl_change.point == 0  # synthetic: both runs have the same KL
    assert found.excess["kl"].low < found.excess["kl"].point < found.excess["kl"].high


def test_files_with_other_row_groups_and_corpora_are_aligned(tmp_path: Path) -> None:
    one, other = tokens("text", 400, 200, 3), tokens("other", 100, 330, 4)
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    pq.write_table(pa.concat_tables([one, other]), paths[0], row_group_size=30_000)
    pq.write_table(pa.concat_tables([other, one]), paths[1], row_group_size=70_000)
    chunks = list(aligned(paths[0], paths[1], "text"))
    assert len(chunks) > 2
    assert np.concatenate([each["kl"] for each, _ in chunks]).tolist() == one["kl"].to_pylist()
    assert all((ours["position"] == theirs["position"]).all() for ours, theirs in chunks)


def test_other_tokens_are_no_floor(folder: Path, tmp_path: Path) -> None:
    table = tokens("text", 12, 40, 3)
    ids = np.asarray(table["token_id"]).copy()
    ids[100] += 1
    missing = np.asarray(table["kl"]).copy()
    missing[7] = np.nan
    for name, corpus, message in (
        ("id", with_column(table, "token_id", ids), "token 100 of 'text': token_id is"),
        ("short", table.slice(0, 470), "has only 470 tokens of 'text': a floor has the same tokens as the run"),
        ("nan", with_column(table, "kl", missing), "token 7 of 'text': kl is not finite"),
    ):
        floor = write(tmp_path / name, ROWS, corpus, about=later())
        found = refused(folder, floor)
        assert message in found
        assert str(floor) in found


def test_intervals_over_tokens_are_clustered_by_window(tmp_path: Path) -> None:
    """Windows whose tokens all change alike: what counts is how many windows there are."""
    table = tokens("text", 60, 20, 0)
    step = np.repeat(np.random.default_rng(1).exponential(0.1, 60), 20)
    moved = (np.asarray(table["base_logprob"], np.float64) - step).astype(np.float32)
    for name, corpus in (("a", table), ("b", with_column(table, "base_logprob", moved))):
        write(tmp_path / name, [window("text", i) for i in range(60)], corpus)
    found = token_floor(tmp_path / "a", tmp_path / "b", "text")
    interval = found.base["abs_delta_logprob"]
    # The bounds of few skewed values are wider than normal ones; from 1,200 tokens they would be a quarter as wide.
    normal = 2 * 1.96 * step[::20].std() / np.sqrt(60)
    assert normal < interval.high - interval.low < 2 * normal
    write(tmp_path / "c", [window("text", 0)], table.slice(0, 20))
    single = token_floor(tmp_path / "c", tmp_path / "c", "text").excess["kl"]
    assert np.isnan([single.low, single.high]).all()


def verdicts(run: RunAnalysis, tmp_path: Path, rules: str) -> list[tuple[str, str]]:
    path = tmp_path / "gate.toml"
    path.write_text(rules)
    return [(each.outcome, each.message) for each in judge(read_rules(path), run)]


def rule(statistic: str, most: float, *fields: str) -> str:
    return "\n".join(["[[rule]]", f'statistic = "{statistic}"', "over_floor = true", f"at_most = {most}", *fields, ""])


def test_rules_over_the_floor(run: RunAnalysis, tmp_path: Path) -> None:
    excess, corpus = overall_of(run).excess["kl"], floor_of(run).corpora["text"].excess
    rules = [
        rule("kl", excess.high),
        rule("kl", excess.low * 0.9),
        rule("kl", excess.point * 1.01),
        rule("flips", 1, 'task = "each"'),
        rule("confidence_shift", 1, 'judge = "point"'),
        rule("kl", corpus["kl"].high, 'corpus = "text"'),
        rule("top_changed", 0, 'corpus = "text"'),
    ]
    found = verdicts(run, tmp_path, "".join(rules))
    assert [outcome for outcome, _ in found] == ["pass", "fail", "inconclusive", *["pass"] * 4, "fail"]
    messages = [message for _, message in found]
    assert f"kl over the floor of overall is {excess.point:.4g} [{excess.low:.4g}, {excess.high:.4g}]" in messages[0]
    assert messages[3].startswith("flips over the floor of boolq is")
    assert messages[4].startswith("flips over the floor of piqa is")
    assert messages[6].startswith("kl over the floor, at most, of text is")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            rule("accuracy", 1),
            "there is no statistic over the floor 'accuracy', expected one of confidence_shift, flips,",
        ),
        (rule("kl", 1, 'of = "base"'), "'kl' over the floor is of both models together: leave out of"),
        (rule("same_top", 1, 'corpus = "text"'), "'same_top', expected one of abs_delta_logprob, abs_delta_p, kl, tok"),
        (rule("kl", 1, 'task = "other"'), "there is no task 'other'"),
    ],
)
def test_a_rule_without_a_floor_is_told(run: RunAnalysis, tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(EvalError) as caught:
        verdicts(run, tmp_path, rules)
    assert message in str(caught.value)


def test_a_rule_over_the_floor_needs_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="is over the floor, and there is none: expected --floor RUN"):
        verdicts(analyse_run(folder, resamples=100), tmp_path, rule("kl", 1, 'corpus = "text"'))


def test_a_corpus_alone_has_a_floor(tmp_path: Path) -> None:
    rows = [window("text", i) for i in range(12)]
    run = write(tmp_path / "run", rows, tokens("text", 12, 40, 3))
    floor = write(tmp_path / "floor", rows, second_tokens(1), about=later())
    assert TOKENS in [each.name for each in floor.iterdir()]
    found = analyse_run(run, floor=floor, resamples=100)
    assert floor_of(found).overall is None
    assert any(each.startswith("Noise floor of text: in a second run the base model has") for each in sentences(found))
