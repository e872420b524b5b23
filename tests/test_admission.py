"""How much work is admitted at once, and when a refused client should try again."""

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from server.errors import InvalidRequest, Overloaded
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.admission import Admission, Cost, Limits, about
from server.scoring.quotas import Quotas
from server.scoring.rate import Rate


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    limits = Limits(requests=4, sequences=100, queue_seconds=10)
    return Admission(limits, ServiceMetrics(CollectorRegistry()), Quotas(clock), clock)


def work(admission: Admission, clock: Clock, tokens: int, seconds: float) -> None:
    """Do one request that takes this many seconds."""
    with admission.room("a", Cost(1, tokens)):
        clock.now += seconds


def test_an_idle_server_refuses_what_can_never_fit(admission: Admission) -> None:
    with (
        pytest.raises(InvalidRequest, match="has 101 sequences, expected at most 100"),
        admission.room("a", Cost(101, 101)),
    ):
        pass


def test_requests_and_sequences_are_bounded(admission: Admission) -> None:
    with ExitStack() as held:
        held.enter_context(admission.room("a", Cost(99, 99)))
        with pytest.raises(Overloaded, match="99 sequences of the server are in flight, and 2 more would exceed 100"):
            held.enter_context(admission.room("a", Cost(2, 2)))
        held.enter_context(admission.room("a", Cost(1, 1)))
        for _ in range(2):
            held.enter_context(admission.room("b", Cost(0, 0)))
        with pytest.raises(Overloaded, match="4 requests of the server are in flight"):
            held.enter_context(admission.room("a", Cost(0, 0)))
    with admission.room("a", Cost(100, 100)):
        pass


def test_tokens_are_bounded_by_what_is_scored_in_time(admission: Admission, clock: Clock) -> None:
    work(admission, clock, 1000, 10)  # 100 tokens a second
    with admission.room("a", Cost(1, 900)):
        with pytest.raises(Overloaded, match="about 900 tokens of the server are in flight, 9 s of work") as refused:
            admission.room("a", Cost(1, 300)).__enter__()
        assert refused.value.retry_after == 2
        with admission.room("b", Cost(1, 100)):
            pass


def test_one_client_leaves_room_for_another(admission: Admission, clock: Clock) -> None:
    work(admission, clock, 1000, 10)  # 100 tokens a second
    with admission.room("a", Cost(1, 700)):
        with pytest.raises(Overloaded, match="about 700 tokens of this client are in flight"):
            admission.room("a", Cost(1, 100)).__enter__()
        with admission.room("b", Cost(1, 100)):
            pass
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(admission.room("a", Cost(0, 0)))
        with pytest.raises(Overloaded, match="3 requests of this client are in flight"):
            admission.check("a")
        admission.check("b")


def test_an_idle_server_takes_one_request_of_any_length(admission: Admission, clock: Clock) -> None:
    work(admission, clock, 10, 10)
    with admission.room("a", Cost(1, 1_000_000)):
        pass


def test_room_is_given_back_when_work_fails(admission: Admission) -> None:
    for _ in range(20):
        with pytest.raises(ZeroDivisionError), admission.room("a", Cost(60, 1)):
            raise ZeroDivisionError
    with admission.room("a", Cost(100, 1)):
        pass


def test_a_batch_gives_back_room_and_counts_for_the_rate_as_it_is_scored(admission: Admission, clock: Clock) -> None:
    with admission.room("a", Cost(sequences=75, tokens=7500)) as room:
        for _ in range(50):
            clock.now += 1
            room.scored()
        assert room.left == Cost(25, 2500)
        # At 100 tokens a second this client may have 750 in flight; that rate is known although nothing has ended.
        with pytest.raises(Overloaded, match=r"about 2500 tokens of the server are in flight, 25 s of work"):
            admission.check("b")
        for _ in range(20):
            clock.now += 1
            room.scored()
        admission.check("b", Cost(75, 400))
        for _ in range(10):  # more than were guessed
            room.scored()
        assert room.left == Cost(0, 0)
    admission.check("a", Cost(100, 750))


def test_the_rate_counts_time_with_work_and_forgets(clock: Clock) -> None:
    rate = Rate(clock)
    assert rate.per_second is None
    rate.working()
    clock.now += 10
    rate.done(1000, idle=True)
    clock.now += 1000
    assert rate.per_second == pytest.approx(100)
    rate.working()
    for _ in range(100):
        clock.now += 10
        rate.done(5000, idle=False)
    assert rate.per_second == pytest.approx(500, rel=0.25)


def test_a_text_is_guessed_and_ids_are_counted() -> None:
    assert about([1, 2, 3]) == 3
    assert about("") == 1
    assert about("x" * 300) == 101


def test_an_answer_gives_back_its_room_as_it_grows_and_what_it_never_needed_at_its_end(
    admission: Admission, clock: Clock
) -> None:
    work(admission, clock, tokens=2000, seconds=20)  # 100 tokens a second, so 1,000 may be in flight
    with admission.room("a", Cost(0, 0, answers=1, generating=700)) as room:
        with pytest.raises(Overloaded, match="about 700 tokens of the server are in flight"):
            admission.check("b", Cost(1, 400))
        clock.now += 3
        room.generated(300)
        assert room.left == Cost(0, 0, 1, 400)
        admission.check("b", Cost(1, 400))
    # What was not drawn was never work: the rate is still 100 tokens a second.
    with admission.room("a", Cost(1, 700)), pytest.raises(Overloaded, match="7 s of work"):
        admission.check("b", Cost(1, 400))


def test_answers_count_as_sequences(admission: Admission) -> None:
    with pytest.raises(InvalidRequest, match="the request has 101 sequences"):
        admission.room("a", Cost(1, 1, answers=100)).__enter__()
