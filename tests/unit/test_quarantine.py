"""The breaker per program: closed, open, half-open."""

import pytest

from pools.errors import ProgramQuarantined
from pools.quarantine import DEATHS_IN_A_ROW, FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_SUSPECTS, Quarantine


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Quarantine:
    quarantine = Quarantine(clock)
    for number in range(DEATHS_IN_A_ROW):
        quarantine.admit("p", str(number))
        quarantine.killed("p")
    return quarantine


@pytest.mark.parametrize("deaths", [0, 1, DEATHS_IN_A_ROW - 1])
def test_it_stays_closed_below_the_limit(deaths: int) -> None:
    """Fewer deaths than the limit stop nothing, and one good end forgives them."""
    quarantine = Quarantine()
    for _ in range(5):
        for number in range(deaths):
            quarantine.admit("p", str(number))
            quarantine.killed("p")
        quarantine.admit("p", "good")
        quarantine.survived("p")


def test_it_opens_for_one_program_alone() -> None:
    """The others run on."""
    quarantine = opened(Clock())
    with pytest.raises(ProgramQuarantined) as refused:
        quarantine.admit("p", "x")
    assert refused.value.retry_after_s == FIRST_PAUSE_S
    quarantine.admit("other", "x")


def test_half_open_lets_one_trial_through() -> None:
    """A good one closes it, a death opens it for twice as long, at most for the longest pause."""
    clock = Clock()
    quarantine = opened(clock)
    pause_s = FIRST_PAUSE_S
    for _ in range(10):
        clock.now += pause_s
        quarantine.admit("p", "trial")
        with pytest.raises(ProgramQuarantined):
            quarantine.admit("p", "second")
        quarantine.killed("p")
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        with pytest.raises(ProgramQuarantined) as refused:
            quarantine.admit("p", "x")
        assert refused.value.retry_after_s == pause_s
    clock.now += pause_s
    quarantine.admit("p", "trial")
    quarantine.survived("p")
    quarantine.admit("p", "x")
    quarantine.admit("p", "y")


def test_a_trial_that_says_nothing_gives_way_to_another() -> None:
    """A trial that was cancelled, or found no worker, does not shut the program out for ever."""
    clock = Clock()
    quarantine = opened(clock)
    clock.now += FIRST_PAUSE_S
    quarantine.admit("p", "trial")
    quarantine.undecided("p", "not the trial")
    with pytest.raises(ProgramQuarantined):
        quarantine.admit("p", "second")
    quarantine.undecided("p", "trial")
    quarantine.admit("p", "second")


def test_it_remembers_a_bounded_number_of_programs() -> None:
    """However many programs kill workers, its memory does not grow."""
    quarantine = Quarantine()
    for number in range(MAX_SUSPECTS + 100):
        quarantine.killed(str(number))
    assert len(quarantine._suspects) == MAX_SUSPECTS
