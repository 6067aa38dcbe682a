"""The reader of `/metrics`, and the counts behind a verified rollback."""

import pytest

from analysis.guardrails import GUARDRAIL_OF
from app.replicas.exposition import merged
from app.replicas.replica import Presence
from cli.rollout.rollback_check import Seen, counted
from cli.scrape import ReplicaRun, Scrape

REPLICA = """# HELP process_start_time_seconds A figure.
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
# HELP poolshift_routing_decisions_total A figure.
# TYPE poolshift_routing_decisions_total counter
poolshift_routing_decisions_total{{pool_version="v2",reason="split"}} {split}
poolshift_routing_decisions_total{{pool_version="v2",reason="forced"}} 99
# HELP poolshift_requests_total A figure.
# TYPE poolshift_requests_total counter
poolshift_requests_total{{pool_version="v1",operation="execute",outcome="ok"}} {answered}
poolshift_requests_total{{pool_version="v1",operation="stream",outcome="worker_crashed"}} {crashed}
poolshift_requests_total{{pool_version="v2",operation="execute",outcome="worker_crashed"}} 7
"""


def scrape(started: float, split: int, answered: int, crashed: int) -> Scrape:
    return Scrape(REPLICA.format(started=started, split=split, answered=answered, crashed=crashed))


def test_a_scrape_tells_series_versions_and_sums() -> None:
    """Sums take the labels that are named, and those that a function takes."""
    one = scrape(17.5, 3, 40, 2)
    assert one.replicas == [ReplicaRun(None, 17.5)]
    assert one.total("poolshift_requests_total") == 49
    assert one.total("poolshift_requests_total", pool_version="v1") == 42
    assert one.total("poolshift_requests_total", lambda labels: labels["outcome"] == "ok", pool_version="v1") == 40
    assert one.total("nothing") == 0
    assert one.versions() == {"poolshift_routing_decisions": {"v2"}, "poolshift_requests": {"v1", "v2"}}
    assert len(one.series) == 6


def test_a_rollback_compares_each_replica_with_itself() -> None:
    """A balancer leads to replicas with counts of their own: their difference is no call of anybody."""
    scrapes = [scrape(1.0, 900, 100, 0), scrape(2.0, 5, 10, 1), scrape(1.0, 900, 103, 0), scrape(2.0, 6, 12, 2)]
    assert counted(scrapes, "v1") == Seen(dispatched=1, answered=6, faults={"worker_crashed": 1}, replicas=2)
    assert counted(scrapes, "v2") == Seen(dispatched=1, answered=0, replicas=2)


def test_replicas_of_one_answer_are_told_apart() -> None:
    """The replicas of one machine answer together; one that is missing once, or has restarted, makes no difference."""

    def machine(*replicas: tuple[float, int, int]) -> Scrape:
        texts: dict[int | None, bytes] = {
            number: REPLICA.format(started=started, split=split, answered=answered, crashed=0).encode()
            for number, (started, split, answered) in enumerate(replicas)
            if started
        }
        return Scrape(merged(texts, [(number, Presence.SERVING) for number in texts]).decode())

    scrapes = [
        machine((1.0, 900, 100), (1.0, 5, 10)),
        machine((1.0, 900, 101), (0.0, 0, 0)),
        machine((1.0, 901, 103), (1.0, 5, 12)),
        machine((1.0, 901, 103), (8.0, 0, 0)),
        machine((1.0, 901, 103), (8.0, 2, 4)),
    ]
    assert counted(scrapes, "v1") == Seen(dispatched=3, answered=9, replicas=3)


@pytest.mark.parametrize(
    ("outcome", "count", "is_healthy"),
    [
        ("invalid_inputs", 1000, True),
        ("program_error", 10, True),
        ("program_error", 11, False),
        ("worker_crashed", 1, False),
        *((code, 500, False) for code in sorted({*GUARDRAIL_OF, "code_outdated", "lm_not_configured"})),
    ],
)
def test_what_callers_get_decides(outcome: str, count: int, is_healthy: bool) -> None:
    """A fault of the engine is one too many; others may be one answer in a hundred. Clients' errors are no faults."""
    text = """# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.0
# TYPE poolshift_requests_total counter
poolshift_requests_total{{pool_version="v1",operation="execute",outcome="ok"}} {good}
poolshift_requests_total{{pool_version="v1",operation="shadow",outcome="worker_crashed"}} {failed}
poolshift_requests_total{{pool_version="v1",operation="batch",outcome="{outcome}"}} {failed}
"""
    first, last = (Scrape(text.format(good=good, failed=n, outcome=outcome)) for good, n in ((0, 0), (990, count)))
    assert counted([first, last], "v1").is_healthy is is_healthy
