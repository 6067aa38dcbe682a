"""The decision to repeat a call, on a clock of the test's own."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolshift.client import (
    NO_RETRY,
    AnswerLost,
    AnswerTimeout,
    Job,
    JobNotOver,
    Page,
    PoolshiftError,
    Retry,
    ServiceUnreachable,
    UnexpectedAnswer,
    executions,
    programs,
    rollout,
)
from poolshift.client.calls import Call, Pager, RawAnswer
from poolshift.client.problems import CLASSES, PoolOverloaded
from poolshift.client.retries import Attempts, Waiting

EXECUTE = executions.execute("p")
IDEMPOTENT = executions.execute("p", idempotent=True)
WITH_A_KEY = executions.submit("p", idempotency_key="k")
GET = programs.show("p")
PUT = programs.put("p", {})
CONDITIONAL_PUT = programs.put("p", {}, expected_revision=1)
DELETE = programs.delete("p")
PATCH = rollout.change(5)
ROLLBACK = rollout.roll_back()
CALLS: list[Call[Any]] = [EXECUTE, IDEMPOTENT, WITH_A_KEY, GET, PUT, CONDITIONAL_PUT, DELETE, PATCH, ROLLBACK]
MAY_ARRIVE_TWICE = (IDEMPOTENT, WITH_A_KEY, GET, PUT, DELETE, ROLLBACK)


class Clock:
    """A clock that goes on by the pauses."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pauses(call: Call[Any], retry: Retry, timeout_s: float, errors: Iterator[PoolshiftError]) -> list[float]:
    """The pauses until the call gives up."""
    clock = Clock()
    attempts = Attempts(call, retry, timeout_s, clock=clock, chance=lambda: 1.0)
    taken: list[float] = []
    for error in errors:
        try:
            taken.append(attempts.pause_s(error))
        except PoolshiftError:
            break
        clock.now += taken[-1]
    assert error.attempts == len(taken) + 1 or next(errors, None) is None
    return taken


def repeats(call: Call[Any], error: PoolshiftError) -> bool:
    return len(pauses(call, Retry(attempts=2), 60, iter([error, error]))) == 1


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_the_calls_that_are_repeated(call: Call[Any]) -> None:
    """All if the request surely did not arrive; of the others those that may arrive twice; none after a timeout."""
    assert repeats(call, ServiceUnreachable("refused"))
    assert repeats(call, AnswerLost("lost")) == (call in MAY_ARRIVE_TWICE)
    assert repeats(call, UnexpectedAnswer("Bad Gateway", status=502)) == (call in MAY_ARRIVE_TWICE)
    assert not repeats(call, UnexpectedAnswer("a login", status=302))
    assert not repeats(call, AnswerTimeout("too slow"))


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.code)
def test_the_errors_after_which_a_call_is_repeated(kind: type[PoolshiftError]) -> None:
    """A later attempt may not meet the error, and the service says that to repeat the call is safe."""
    is_passing = kind.status in (502, 503, 504)
    assert repeats(EXECUTE, kind("failed", retry_safe=True)) == is_passing
    assert repeats(EXECUTE, kind("failed", retry_safe=True, retry_after=1)) == (is_passing or kind.status in (409, 429))
    assert not repeats(EXECUTE, kind("failed", retry_safe=False, retry_after=1))
    assert not repeats(GET, kind("failed", retry_safe=False))


def test_the_pauses_grow_to_the_longest() -> None:
    """Chance can halve a pause, and nothing more."""
    retry = Retry(attempts=7, first_pause_s=0.5, longest_pause_s=3)
    lost = iter([AnswerLost("lost")] * 9)
    assert pauses(GET, retry, 60, lost) == [0.5, 1, 2, 3, 3, 3]
    assert retry.pause_s(3, None, 0.0) == 1
    assert pauses(GET, NO_RETRY, 60, iter([AnswerLost("lost")])) == []


def test_the_service_names_the_pause() -> None:
    """`Retry-After` is waited for, also if it is longer than the longest pause; but never past the deadline."""

    def overloaded(retry_after: float) -> Iterator[PoolshiftError]:
        return iter([PoolOverloaded("full", retry_safe=True, retry_after=retry_after)] * 9)

    assert pauses(EXECUTE, Retry(attempts=3, first_pause_s=0), 60, overloaded(7)) == [7, 7]
    assert pauses(EXECUTE, Retry(attempts=9, first_pause_s=0), 20, overloaded(7)) == [7, 7]
    assert pauses(EXECUTE, Retry(), 20, overloaded(30)) == []


def times(least: float, most: float) -> st.SearchStrategy[float]:
    """Seconds in whole 1024ths, of which sums of floats are exact."""
    return st.integers(round(least * 1024), round(most * 1024)).map(lambda number: number / 1024)


@given(st.integers(1, 50), times(0, 5), times(0, 60), times(0.001, 100), st.one_of(st.none(), times(0, 60)))
def test_no_pause_is_past_the_deadline(
    attempts: int, first_pause_s: float, longest_pause_s: float, timeout_s: float, retry_after: float | None
) -> None:
    """Whatever the options and the service say, the call ends within its time and its attempts."""
    retry = Retry(attempts, first_pause_s, longest_pause_s)
    errors = iter([PoolOverloaded("full", retry_safe=True, retry_after=retry_after)] * 60)
    taken = pauses(EXECUTE, retry, timeout_s, errors)
    assert sum(taken) <= timeout_s
    assert len(taken) < attempts
    assert all(pause >= (retry_after or 0) for pause in taken)


def test_a_deletion_whose_answer_was_lost() -> None:
    """The next attempt finds nothing, which is what was wanted; a first attempt that finds nothing is an error."""
    not_found = RawAnswer(404, {}, b'{"code": "program_not_found"}')
    attempts = Attempts(DELETE, Retry(), 60)
    assert attempts.settled(not_found) is not_found
    attempts.pause_s(ServiceUnreachable("refused"))
    assert attempts.settled(not_found) is not_found
    attempts.pause_s(AnswerLost("lost"))
    assert attempts.settled(not_found).status == 204
    assert Attempts(GET, Retry(), 60).settled(not_found) is not_found


@pytest.mark.parametrize("options", [{"attempts": 0}, {"first_pause_s": -1}, {"longest_pause_s": -1}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    """They are refused at once."""
    with pytest.raises(ValueError, match="at least"):
        Retry(**options)


def test_looks_at_a_job_become_rare() -> None:
    """At first often, later once a second, and never after the time is over."""
    clock = Clock()
    waiting = Waiting(4, clock=clock)
    job = Job(execution_id="e", program_id="p", status="running", created_at=None)  # type: ignore[arg-type]
    looks: list[float] = []

    def look_for_ever() -> None:
        while True:
            looks.append(waiting.pause_s(job))
            clock.now += looks[-1]

    with pytest.raises(JobNotOver, match="'e' is running after 4 s"):
        look_for_ever()
    assert looks[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert sum(looks) == pytest.approx(4)


def test_a_list_that_does_not_go_on() -> None:
    """A service that names the same page for ever is an error, and no endless loop."""
    pager = Pager(programs.listed())
    pager.took(Page([], "7"))
    with pytest.raises(UnexpectedAnswer, match="does not go on"):
        pager.took(Page([], "7"))


@given(st.integers(0, 5000), st.one_of(st.none(), st.integers(1, 6000)))
def test_a_list_ends_at_its_limit(count: int, limit: int | None) -> None:
    """No page is asked for that would have more, and nothing is left out."""
    pager = Pager(programs.listed(limit=limit))
    got = 0
    while (call := pager.next_call()) is not None:
        size = min(int(call.params["limit"]), count - got)
        got += size
        pager.took(Page([None] * size, str(got) if got < count else None))
    assert got == (count if limit is None else min(count, limit))
