"""The length and the size of a run."""

from dataclasses import dataclass

SCENARIOS = tuple(
    (
        "routing replacement overhead replicas blocking awaiting compute payload tail waiting mixed "
        "scale memory light shadow judge console"
    ).split()
)
"""The first ones first: what the time does not suffice for is at the end."""
SIMULATED = frozenset({"judge"})
"""Scenarios that need no server and no load generator."""
FEW_ROUNDS = 2
"""Enough where the contenders differ by far more than the rounds do."""


@dataclass(frozen=True)
class Plan:
    """The sizes of everything. The defaults take less than five minutes."""

    workers: int = 4
    connections: int = 32
    rounds: int = 3
    seconds: int = 2
    """Duration of one measurement."""
    warm_up_s: int = 1
    """Duration of a load before the first measurement, whose figures are dropped."""
    pool_sizes: tuple[int, ...] = (4, 8, 16, 32)
    """For the blocking program."""
    many_workers: int = 64
    many_programs: int = 100_000
    many_sessions: int = 10_000
    replacements: int = 10
    executions: int = 100_000
    """Until the server's memory is looked at."""
    first_port: int = 8310
    budget_s: int = 270
    """No scenario begins later; the last takes some ten seconds."""

    @property
    def few_rounds(self) -> int:
        """`FEW_ROUNDS`, or fewer where there are not as many."""
        return min(self.rounds, FEW_ROUNDS)


QUICK = Plan(
    workers=2,
    connections=8,
    rounds=1,
    seconds=1,
    warm_up_s=0,
    pool_sizes=(2, 4),
    many_workers=4,
    many_programs=1_000,
    many_sessions=100,
    replacements=2,
    executions=2_000,
)
