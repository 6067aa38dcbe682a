"""Metrics of single programs: bounded, there from the creation on, and gone with the program."""

import pytest
from prometheus_client import CollectorRegistry

from pools.calls import Program
from poolshift.worker.definitions import Limits
from routing.errors import QuotaExceeded
from routing.telemetry.program_metrics import ProgramMetrics
from routing.versions import Version
from tests.support.fake_pools import echo_program

MEASURED = Limits(metrics=True)


class Watched:
    """Metrics for two programs at most."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.metrics = ProgramMetrics(self._registry, limit=2)

    def counts(self) -> dict[tuple[str, str, str], float]:
        """The values of the counter, by its labels."""
        return {
            (sample.labels["program"], sample.labels["pool_version"], sample.labels["outcome"]): sample.value
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "poolshift_program_requests_total"
        }

    def durations(self) -> set[str]:
        """The programs in the histogram."""
        return {
            sample.labels["program"]
            for family in self._registry.collect()
            for sample in family.samples
            if sample.name == "poolshift_program_duration_seconds_count"
        }


def program(key: str, program_id: str, *, is_measured: bool = True) -> Program:
    definition = echo_program(limits=MEASURED if is_measured else Limits(max_concurrency=1)).definition
    return Program(key, program_id, definition)


def test_series_live_as_long_as_their_program() -> None:
    """They begin at 0, count, and neither outlive the program nor come back with the end of its last call."""
    watched = Watched()
    one, other = program("1", "one"), program("2", "other", is_measured=False)
    for each in (one, other):
        watched.metrics.note(each)
    assert watched.counts() == {("one", "v1", "ok"): 0, ("one", "v2", "ok"): 0}
    assert watched.durations() == {"one"}
    watched.metrics.answered(one, Version.V2, "ok", 0.1)
    watched.metrics.answered(one, Version.V2, "program_error", 0.1)
    watched.metrics.answered(other, Version.V2, "ok", 0.1)
    watched.metrics.note(one)
    assert watched.counts() == {("one", "v1", "ok"): 0, ("one", "v2", "ok"): 1, ("one", "v2", "program_error"): 1}
    watched.metrics.end("1")
    watched.metrics.answered(one, Version.V2, "ok", 0.1)
    assert watched.counts() == {}
    assert watched.durations() == set()


def test_programs_of_one_id_share_their_series() -> None:
    """They end with the last of these programs."""
    watched = Watched()
    for key in ("1", "2"):
        watched.metrics.note(program(key, "same"))
    watched.metrics.answered(program("2", "same"), Version.V1, "ok", 0.1)
    watched.metrics.end("2")
    assert watched.counts()[("same", "v1", "ok")] == 1
    watched.metrics.retain([])
    assert watched.counts() == {}


def test_the_limit_counts_who_is_about_to_come() -> None:
    """One more is refused before it is stored, and one that another replica has let in gets no series."""
    watched = Watched()
    definition = program("1", "one").definition
    with watched.metrics.place_for(definition), watched.metrics.place_for(definition):
        with (
            pytest.raises(QuotaExceeded, match="programs with metrics of their own: 2 at most"),
            watched.metrics.place_for(definition),
        ):
            raise AssertionError("it was let in")
        with watched.metrics.place_for(echo_program().definition):
            pass
    for number in range(3):
        watched.metrics.note(program(str(number), f"program-{number}"))
    assert watched.durations() == {"program-0", "program-1"}
    watched.metrics.end("0")
    watched.metrics.note(program("2", "program-2"))
    assert watched.durations() == {"program-1", "program-2"}


def test_a_change_of_the_definition_begins_and_ends_series() -> None:
    """A program keeps its key when its definition changes."""
    watched = Watched()
    watched.metrics.note(program("1", "one", is_measured=False))
    assert watched.durations() == set()
    watched.metrics.note(program("1", "one"))
    assert watched.durations() == {"one"}
    watched.metrics.note(program("1", "one", is_measured=False))
    assert watched.durations() == set()
