"""The answers of a machine's replicas become one: pools, failed calls, reports, metrics, charts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from analysis.verdict import Say
from app.console.figures import Counts, Run, Series, Tick
from app.positions.new_code import Found
from app.positions.reload import ON_SIGNAL, Reload
from app.replicas import told
from app.replicas.exposition import merged
from app.replicas.machine import Told
from app.replicas.replica import Presence
from app.replicas.told import FailuresTold, PoolTold, StatusTold
from app.replicas.views import interleaved, leading, newest, whole_failures, whole_pool, whole_reports
from pools.process.exits import ExitCause
from pools.protocol import PoolSnapshot, Quarantined, WorkerSnapshot
from routing.rollout.ramp_store import ReplicaReport
from routing.telemetry.failures import Failure
from routing.telemetry.recorder import DURATION_BOUNDS
from routing.versions import Version

NOW = datetime(2026, 12, 1, tzinfo=UTC)
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def snapshot(pid: int, **more: object) -> PoolSnapshot:
    """A pool with one idle worker."""
    worker = WorkerSnapshot(pid, "idle", 1.0, 3, 1000, 0.5, 7, "code")
    pool = PoolSnapshot("v2", 1, 0, 1, 0, 0, 0, 0.0, 0, 1, {}, 0.0, 0.5, "code", (worker,), wished_size=1, warm=1)
    return replace(pool, **more)  # type: ignore[arg-type]


def parts(*snapshots: PoolSnapshot) -> list[Told[PoolSnapshot]]:
    return [Told(index, one) for index, one in enumerate(snapshots)]


# --- pools


def test_a_pool_is_the_sum_of_its_parts() -> None:
    """Counts add up; the share of busy workers has the weight of sizes, the time of a call that of calls."""
    one = snapshot(
        10, size=3, busy=3, idle=0, utilization=1.0, dispatched_total=30, service_time_s=0.1, queue_depth=2, warm=3
    )
    other = snapshot(
        20,
        dispatched_total=10,
        service_time_s=0.5,
        worker_exits_total={ExitCause.CRASH: 2},
        quarantined=(Quarantined("p", 3, 5.0),),
    )
    whole = whole_pool(parts(one, other))
    assert (whole.size, whole.wished_size, whole.busy, whole.idle, whole.warm) == (4, 2, 3, 1, 4)
    assert (whole.queue_depth, whole.dispatched_total, whole.worker_starts_total) == (2, 40, 2)
    assert whole.utilization == pytest.approx(0.75)
    assert whole.service_time_s == pytest.approx(0.2)
    assert whole.cpu_seconds_total == 1.0
    assert whole.worker_exits_total == {ExitCause.CRASH: 2}
    assert [(worker.pid, worker.replica) for worker in whole.workers] == [(10, 0), (20, 1)]
    assert whole.quarantined == (Quarantined("p", 3, 5.0),)
    assert whole.is_ready


def test_the_only_part_is_the_whole() -> None:
    """A service that is one process shows itself as it is."""
    one = snapshot(10, fault="no", dispatched_total=4, service_time_s=0.25, utilization=0.5)
    assert whole_pool([Told(None, one)]) == one
    idle = snapshot(10, size=0)
    assert whole_pool([Told(None, idle)]) == replace(idle, utilization=0.0)


def test_a_fault_of_one_names_its_replica() -> None:
    """A fault of all is told once, without a number."""
    good, bad = snapshot(1), snapshot(2, fault="no module", busy=0, idle=0)
    assert whole_pool(parts(good, bad)).fault == "replica 1: no module"
    assert whole_pool(parts(good, bad)).is_ready
    assert whole_pool(parts(bad, bad)).fault == "no module"
    assert whole_pool(parts(good, good)).fault is None
    assert not whole_pool(parts(bad, bad)).is_ready


def test_a_program_in_quarantine_is_shown_once() -> None:
    """With the longest time of those that refuse it."""
    one, other = (snapshot(1, quarantined=(Quarantined("p", 3, left),)) for left in (2.0, 9.0))
    assert whole_pool(parts(one, other)).quarantined == (Quarantined("p", 3, 9.0),)


def test_the_newest_reload_is_shown() -> None:
    reloads = [Reload(NOW + timedelta(seconds=n), ON_SIGNAL, "a", "b", Found()) for n in (1, 3, 2)]
    assert newest([None, *reloads]) is reloads[1]
    assert newest([None, None]) is None


# --- failed calls, examples


def failure(at: float) -> Failure:
    return Failure(at, Version.V1, "program_error", "program", "p", f"e-{at}", None, is_traced=False, detail="no")


def test_failures_add_up_and_are_in_order() -> None:
    """They are counted since the first start of any."""
    one = FailuresTold(since=5.0, counts=[("a", Version.V1, 2)], newest=[failure(9.0), failure(6.0)])
    other = FailuresTold(
        since=3.0, counts=[("a", Version.V1, 1), ("b", Version.V2, 4)], newest=[failure(8.0), failure(7.0)]
    )
    whole = whole_failures([one, other])
    assert whole.since == 3.0
    assert whole.counts == {("a", Version.V1): 3, ("b", Version.V2): 4}
    assert [one.at for one in whole.newest] == [9.0, 8.0, 7.0, 6.0]


def test_examples_are_taken_in_turn() -> None:
    assert interleaved([[1, 2, 3], [], [4]], 3) == [1, 4, 2]
    assert interleaved([[1, 2, 3], [], [4]], 9) == [1, 4, 2, 3]


# --- reports of replicas


def report(name: str, seconds: int = 0) -> ReplicaReport:
    return ReplicaReport(name, NOW + timedelta(seconds=seconds), 7, (1, 2), heard_at=0.0)


def status(of: ReplicaReport, *, leads: bool = False) -> StatusTold:
    return StatusTold(report=of, leads=leads, verdict=Say.CONTINUE, guardrail=None, next=of.id, reason=None, since=NOW)


def place_of(name: str) -> int | None:
    return int(name[0]) if "@m" in name else None


def test_a_report_of_now_takes_the_place_of_stored_ones() -> None:
    """Reports of other machines stay. A replica that does not answer has its newest one, and a dead one none."""
    stored = [report("0@m-dead"), report("0@m-a"), report("1@m-older"), report("1@m-b", 5), report("elsewhere")]
    told_now = [Told(0, status(report("0@m-a", 9))), Told(2, status(report("2@m-c", 9)))]
    found = whole_reports(stored, told_now, place_of)
    assert [one.id for one in found] == ["1@m-b", "elsewhere", "0@m-a", "2@m-c"]
    assert found[2].seen_at == NOW + timedelta(seconds=9)
    alone = whole_reports(stored[-1:], [Told(None, status(report("elsewhere")))], lambda _: None)
    assert [one.id for one in alone] == ["elsewhere"]


def test_the_leader_has_the_word() -> None:
    """If none of this machine leads, the replica that is asked says what it knows."""
    one, other = Told(0, status(report("0@m-a"))), Told(1, status(report("1@m-b"), leads=True))
    assert leading([one, other], 0).next == "1@m-b"
    assert leading([one], 0).next == "0@m-a"


# --- questions


def test_answers_come_as_they_were_told() -> None:
    """Pools, reloads and numbers without an end, too."""
    done = Reload(NOW, ON_SIGNAL, None, "b", Found())
    pools = {Version.V2: PoolTold(snapshot=snapshot(1, service_time_s=float("inf")), last_reload=done)}
    assert told.POOLS.heard(told.POOLS.asked(pools)) == pools  # type: ignore[arg-type]  # encodes alike
    failures = FailuresTold(since=5.0, counts=[("a", Version.V1, 2)], newest=[failure(9.0)])
    assert told.FAILURES.heard(told.FAILURES.asked(failures)) == failures  # type: ignore[arg-type]


def test_each_question_has_a_name_of_its_own() -> None:
    names = [question.name for question in told.LOOKS]
    assert len(names) == len(set(names))


# --- metrics

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def registry(values: Mapping[str, float], *, has_more: bool = False) -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("calls_total", 'Calls {of}\n# HELP "all".', ["name"], registry=registry)
    histogram = Histogram("seconds", "Durations.", buckets=(1.0,), registry=registry)
    Gauge("share", "No label.", registry=registry).set(float("nan"))
    for name, value in values.items():
        counter.labels(name).inc(value)
        histogram.observe(value, {"trace_id": "a1"})
    if has_more:
        Gauge("more", "Of this replica alone.", ["a", "b"], registry=registry).labels("1", "}").set(2)
    return registry


def samples(families: Sequence[Metric]) -> set[tuple[str, tuple[tuple[str, str], ...], str, str]]:
    """The samples that can be compared."""
    return {
        (one.name, tuple(sorted(one.labels.items())), repr(one.value), repr(one.exemplar))
        for family in families
        for one in family.samples
        if family.name != "poolshift_replicas"
    }


@given(
    st.lists(st.dictionaries(TEXT, st.floats(0, 9), max_size=3), min_size=1, max_size=3),
    st.sampled_from(["", OPENMETRICS]),
)
def test_a_scrape_has_each_family_once_and_each_sample_with_its_replica(
    values: list[dict[str, float]], accept: str
) -> None:
    """Whatever labels and help say; exemplars stay, and the text ends once."""
    encode, _ = choose_encoder(accept)
    parse = openmetrics_families if accept else text_string_to_metric_families
    texts: dict[int | None, bytes] = {
        replica: encode(registry(one, has_more=replica == 1)) for replica, one in enumerate(values)
    }
    whole = merged(texts, [(replica, Presence.SERVING) for replica in range(len(values))]).decode()
    families = list(parse(whole))
    assert len({family.name for family in families}) == len(families)
    expected = {
        (name, tuple(sorted([*labels, ("replica", str(replica))])), value, exemplar)
        for replica, text in texts.items()
        for name, labels, value, exemplar in samples(list(parse(text.decode())))
    }
    assert samples(families) == expected
    assert whole.count("# EOF") == bool(accept)
    assert whole.count("# TYPE poolshift_replicas gauge") == 1


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_one_process_has_no_replica(accept: str) -> None:
    """A scrape is as it was, with the one state in addition."""
    encode, _ = choose_encoder(accept)
    text = encode(registry({"a": 1.0}))
    whole = merged({None: text}, [(None, Presence.SERVING)])
    assert whole.startswith(text.removesuffix(b"# EOF\n"))
    assert b'poolshift_replicas{state="serving"} 1.0\n' in whole
    assert b'poolshift_replicas{state="gone"} 0.0\n' in whole
    assert whole.endswith(b"# EOF\n") == bool(accept)


# --- the console's charts


def tick(at: int, **calls: int) -> Tick:
    """A tick of runs such as `a5`: of the replica `a`, since the second 5."""
    counts = {
        Run(ord(name[0]), float(name[1:])): Counts(
            {version: [count, *[0] * len(DURATION_BOUNDS)] for version in Version}, {(Version.V1, "engine"): count}
        )
        for name, count in calls.items()
    }
    return Tick(at, counts, dict.fromkeys(Version, 0))


def test_no_chart_falls_or_jumps_with_a_replica() -> None:
    """One that dies takes nothing away, its successor begins at 0; what one has counted unheard is in no second."""
    series = Series()
    series.add(tick(10, a1=100, b1=50))
    shown = [
        series.add(tick(11, a1=110)),  # b has died
        series.add(tick(12, a1=120, b12=3)),  # another has begun in this second
        series.add(tick(13, a1=130)),  # it is silent
        series.add(tick(14, a1=140, b12=90)),  # and is there again
        series.add(tick(15, a1=150, b12=95)),
    ]
    assert [point.calls[0] for point in shown if point is not None] == [10, 13, 10, 10, 15]
    assert [point.faults[0] for point in shown if point is not None] == [10, 13, 10, 10, 15]
