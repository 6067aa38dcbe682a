"""The dashboard of the pools: utilization, queues, lives of workers, and costs."""

from grafana_foundation_sdk.builders import dashboard

from dashboards.frame import new_dashboard
from dashboards.panels import lines, number, row
from dashboards.queries import FAILED_ENDS, RATE, SHED, V1, V2, quantile, rate, selector, share, total

REQUESTS = "poolshift_requests_total"
SERVING = 'state=~"idle|busy"'


def build() -> dashboard.Dashboard:
    """The dashboard *Pools*."""
    built = new_dashboard("pools", "Poolshift / Pools", "Utilization, queue, workers and what they use, by version.")
    for part in (_now, _load, _workers, _resources):
        part(built)
    return built


def _now(built: dashboard.Dashboard) -> None:
    by_version = "{{pool_version}}"
    built.with_row(row("Now")).with_panel(
        number(
            "Utilization",
            "Busy workers to the pools' size, over all replicas.",
            [(f"avg by (pool_version) ({selector('poolshift_pool_utilization_ratio')})", by_version)],
            unit="percentunit",
            decimals=0,
            warn_at=0.8,
            alarm_at=0.95,
        )
    ).with_panel(
        number(
            "Waiting", "Calls in the queues.", [(total("poolshift_queue_depth"), by_version)], warn_at=1, alarm_at=100
        )
    ).with_panel(
        number("Serving workers", "Idle and busy.", [(total("poolshift_pool_workers", SERVING), by_version)])
    ).with_panel(
        number(
            "Worker failures in 1 h",
            "Workers that crashed, were killed by a signal or ran out of memory.",
            [
                (
                    f"sum by (pool_version) (increase({selector('poolshift_worker_exits_total', FAILED_ENDS)}[1h]))",
                    by_version,
                )
            ],
            decimals=0,
            warn_at=1,
            alarm_at=10,
        )
    ).with_panel(
        number(
            "Shed",
            "Calls turned away, since the queue was full or no worker came free in time.",
            [(share(rate(REQUESTS, SHED), rate(REQUESTS)), by_version)],
            unit="percentunit",
            decimals=2,
            warn_at=0.001,
            alarm_at=0.01,
        )
    ).with_panel(number("Sessions", "Within their time to live.", [(total("poolshift_sessions_active"), by_version)]))


def _load(built: dashboard.Dashboard) -> None:
    built.with_row(row("Load")).with_panel(
        lines(
            "Utilization over time",
            "Busy workers to the pool's size. V1 keeps one worker busy at a time, whatever its size.",
            [(f"avg by (pool_version) ({selector('poolshift_pool_utilization_ratio')})", "{{pool_version}}")],
            unit="percentunit",
            maximum=1,
        )
    ).with_panel(
        lines("Queue", "Calls that wait for a worker.", [(total("poolshift_queue_depth"), "{{pool_version}}")])
    ).with_panel(
        lines(
            "Wait in the queue",
            "Half of the calls, and all but one in a hundred, waited no longer.",
            [
                (quantile(phi, "poolshift_queue_wait_seconds"), f"{{{{pool_version}}}} {name}")
                for name, phi in (("p50", 0.5), ("p99", 0.99))
            ],
            unit="s",
        )
    ).with_panel(
        lines(
            "Throughput", "Calls that ended well.", [(rate(REQUESTS, 'outcome="ok"'), "{{pool_version}}")], unit="reqps"
        )
    ).with_panel(
        lines(
            "Shed, timed out",
            "Turned away before they ran, or killed at their deadline.",
            [
                (
                    rate(
                        REQUESTS,
                        'outcome=~"pool_overloaded|checkout_timeout|execution_timeout"',
                        by="pool_version, outcome",
                    ),
                    "{{pool_version}} {{outcome}}",
                )
            ],
            unit="reqps",
        )
    ).with_panel(
        lines(
            "Sessions over time",
            "By the version that served them last.",
            [(total("poolshift_sessions_active"), "{{pool_version}}")],
        )
    )


def _workers(built: dashboard.Dashboard) -> None:
    built.with_row(row("Workers"))
    for name, version in (("V1", V1), ("V2", V2)):
        built.with_panel(
            lines(
                f"{name}: workers by state",
                "Over all replicas.",
                [(total("poolshift_pool_workers", version, by="state"), "{{state}}")],
                width=12,
                stacked=True,
            )
        )
    built.with_panel(
        lines(
            "Ends by cause",
            "crash, signal and oom are failures of a worker or a program; timeout and cancelled end a call; recycled"
            " and shutdown are wanted.",
            [(rate("poolshift_worker_exits_total", by="pool_version, cause"), "{{pool_version}} {{cause}}")],
            unit="ops",
        )
    ).with_panel(
        lines(
            "Starts",
            "Workers that got ready.",
            [(rate("poolshift_worker_starts_total"), "{{pool_version}}")],
            unit="ops",
        )
    ).with_panel(
        lines(
            "Time to start: p95",
            "From the wish for a worker until it was ready.",
            [(quantile(0.95, "poolshift_worker_start_duration_seconds"), "{{pool_version}}")],
            unit="s",
        )
    )


def _resources(built: dashboard.Dashboard) -> None:
    workers = f"({total('poolshift_pool_workers')} > 0)"
    built.with_row(row("What the workers use")).with_panel(
        lines(
            "Memory",
            "Resident, all workers of a version; pages that they share count for each.",
            [(total("poolshift_worker_resident_memory_bytes"), "{{pool_version}}")],
            unit="bytes",
        )
    ).with_panel(
        lines(
            "Memory per worker",
            "A line that only climbs is a leak in a program: WORKER_MAX_RSS_MB recycles workers.",
            [(f"{total('poolshift_worker_resident_memory_bytes')} / {workers}", "{{pool_version}}")],
            unit="bytes",
        )
    ).with_panel(
        lines(
            "Processors",
            "Cores that the workers keep busy.",
            [
                (
                    f"sum by (pool_version) (rate({selector('poolshift_worker_cpu_seconds_total')}[{RATE}]))",
                    "{{pool_version}}",
                )
            ],
            unit="none",
        )
    ).with_panel(
        lines("Open files", "All workers of a version.", [(total("poolshift_worker_open_fds"), "{{pool_version}}")])
    ).with_panel(
        lines(
            "Open files per worker",
            "A line that only climbs is a leak.",
            [(f"{total('poolshift_worker_open_fds')} / {workers}", "{{pool_version}}")],
        )
    ).with_panel(
        lines(
            "Processor time per call",
            "What a call costs, whatever else it waits for.",
            [(f"{rate('poolshift_worker_cpu_seconds_total')} / ({rate(REQUESTS)} > 0)", "{{pool_version}}")],
            unit="s",
        )
    )
