"""The newest validation as the migration page shows it: what has changed, and the figures behind the checklist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import msgspec

from routing.migration.checklist import Validation

MAX_ROWS: Final = 64
_Figure = TypeVar("_Figure")
_Bound = float | None
"""None is unbounded, as JSON has infinities."""


@dataclass(frozen=True, slots=True)
class Change:
    """An item whose state is another one than at the validation before."""

    item: str
    before: str
    now: str


class Load(msgspec.Struct, frozen=True):
    """One version under so many calls at once."""

    calls_per_s: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


class Benchmark(msgspec.Struct, frozen=True):
    """Both versions under so many calls at once, and the interval of V2's throughput over V1's."""

    v1: Load
    v2: Load
    interval: tuple[_Bound, _Bound]

    @property
    def ratio(self) -> tuple[float, _Bound]:
        """The interval with 0 for a bound that is not known."""
        return self.interval[0] or 0.0, self.interval[1]


class Growth(msgspec.Struct, frozen=True):
    """The growth of memory in bytes a call."""

    interval: tuple[_Bound, _Bound]
    calls: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Report:
    """A validation for the page."""

    counts: Mapping[str, int]
    """Items by state."""
    changes: Sequence[Change]
    before: Validation | None
    benchmarks: Mapping[str, Benchmark]
    """By calls at once."""
    memory: Mapping[str, Growth]
    """By process and version."""


def report_of(validation: Validation, before: Validation | None) -> Report:
    """Reads a validation; whoever may add one may add any figures, and those of another form are left out."""
    earlier = {one.item: one.state for one in before.items} if before is not None else {}
    states = [one.state for one in validation.items]
    return Report(
        counts={state: states.count(state) for state in dict.fromkeys(states)},
        changes=[
            Change(one.item, earlier[one.item], one.state)
            for one in validation.items
            if earlier.get(one.item, one.state) != one.state
        ],
        before=before,
        benchmarks=_figures(validation.report.get("benchmarks"), Benchmark),
        memory=_figures(validation.report.get("memory"), Growth),
    )


def _figures(found: Any, kind: type[_Figure]) -> dict[str, _Figure]:
    try:
        by_name = msgspec.convert(found, dict[str, Any])
        return {name: msgspec.convert(one, kind) for name, one in list(by_name.items())[:MAX_ROWS]}
    except msgspec.ValidationError:
        return {}
