"""The failed calls that a replica keeps: bounded whatever comes, the newest first."""

from routing.telemetry.failures import KEPT_OF_EACH, MAX_DETAIL, MAX_PROGRAM_ID, Failures
from routing.versions import Version


def add(failures: Failures, number: int, code: str = "program_error", version: Version = Version.V2) -> None:
    failures.add(
        version,
        code,
        "program",
        program_id=f"p-{number}-" + "x" * 1000,
        execution_id=f"e-{number}",
        trace_id=None,
        is_traced=False,
        detail="d" * 10_000,
    )


def test_each_kind_keeps_its_newest_and_counts_all() -> None:
    """A flood of one code pushes no execution of another code or version out, and no text is kept whole."""
    failures = Failures()
    add(failures, 0, "worker_crashed")
    add(failures, 1, version=Version.V1)
    for number in range(2, 5000):
        add(failures, number)
    kept = list(failures.newest())
    assert len(kept) == KEPT_OF_EACH + 2
    assert [one.execution_id for one in failures.newest("program_error", Version.V2)] == [
        f"e-{number}" for number in range(4999, 4999 - KEPT_OF_EACH, -1)
    ]
    assert [one.execution_id for one in kept[-2:]] == ["e-1", "e-0"]
    assert failures.counts()[("program_error", Version.V2)] == 4998
    assert all(len(one.detail) == MAX_DETAIL and len(one.program_id) == MAX_PROGRAM_ID for one in kept)
