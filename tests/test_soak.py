"""Two minutes of mixed traffic with faults; ``python -m benchmarks.soak`` is the same for half an hour."""

from collections import Counter

from benchmarks.soak import run

KINDS = {
    "bad body",
    "batch",
    "burst",
    "compare",
    "completion",
    "detokenize",
    "generates",
    "half closes",
    "killed",
    "leaves",
    "leaves a stream",
    "new key file",
    "probe",
    "read",
    "slow",
    "stranger",
    "streams",
    "tokenize",
}


def test_the_server_ends_where_it_began() -> None:
    outcome = run(seconds=80, seed=1)
    assert outcome.wrong == []
    kinds: Counter[str] = Counter()
    for (kind, _), count in outcome.seen.statuses.items():
        kinds[kind] += count
    assert set(kinds) == KINDS
    # Under load, and not only refused.
    assert outcome.seen.statuses["burst", "429"] > 0
    assert outcome.seen.statuses["compare", "200"] > 20
    assert sum(outcome.seen.statuses[kind, "200"] for kind in ("generates", "streams", "leaves a stream")) > 0
