"""V1 against V2: whether the canary is as good as what it replaces, and how sure that is."""

from grafana_foundation_sdk.builders import dashboard, timeseries

from dashboards.frame import new_dashboard, window_variable
from dashboards.panels import density, interval_lines, lines, number, row
from dashboards.queries import (
    FAULTS,
    JUDGED,
    PROGRAM_REQUESTS,
    REPLICA,
    V1,
    V2,
    WINDOW,
    fault_difference,
    fault_difference_bound,
    judged_calls,
    of_programs,
    quantile,
    quantile_bound,
    rate,
    selector,
    share,
    window_quantile,
)

REQUESTS = "poolshift_requests_total"
DURATION = "poolshift_request_duration_seconds"
PROGRAM_DURATION = "poolshift_program_duration_seconds"
ANY_RATIO = 10
"""An upper end that is not known yet, or is over this, is drawn here."""
ROLLING_BACK = {"engine": "engine faults", "program": "program faults", "latency": "time", "tail": "slow calls"}
"""The guardrails that roll back unless a plan says otherwise."""
EXCUSED_ERRORS = ('category=~"request|session|upstream"',)


def build() -> dashboard.Dashboard:
    """The dashboard *Canary*."""
    built = new_dashboard(
        "canary", "Poolshift / Canary", "V1 against V2 while traffic moves: rate, faults, latency, and how sure it is."
    ).with_variable(window_variable())
    for part in (_now, _evidence, _traffic, _faults, _latency, _programs, _shadow, _rollout):
        part(built)
    return built


def _now(built: dashboard.Dashboard) -> None:
    built.with_row(row("Now")).with_panel(
        number(
            "Canary",
            "What the rollout sends to V2: the highest of the replicas. «Canary percentage» below shows each.",
            [(f"max({selector('poolshift_canary_percent')})", "highest")],
            unit="percent",
        )
    ).with_panel(
        number(
            "Went to V2",
            "V2's share of the calls that came, forced and pinned ones included.",
            [
                (
                    share(rate(REQUESTS, V2, by="job"), rate(REQUESTS, by="job")),
                    "{{job}}",
                )
            ],
            unit="percentunit",
            decimals=1,
        )
    ).with_panel(
        number(
            "V2's faults less V1's",
            "The difference of the shares of faulty calls, over the window. Its interval is below: judge by that.",
            [(fault_difference(), "difference")],
            unit="percentunit",
            decimals=2,
        )
    ).with_panel(
        number(
            "Surely worse by",
            "The lower end of the 95 % interval of that difference, 0 where it is below: above zero V2 is worse, and"
            " hardly by chance.",
            [(f"clamp_min({fault_difference_bound('-')}, 0)", "lower end")],
            unit="percentunit",
            decimals=2,
            warn_at=0.00005,  # what is shown as 0.01 %
            alarm_at=0.01,
        )
    ).with_panel(
        number(
            "Calls compared",
            "How many calls of each version the comparison stands on: a few hundred tell little.",
            [(judged_calls(), "{{pool_version}}")],
            decimals=0,
        )
    ).with_panel(
        number(
            "Rollback took",
            "From the flag to the last dispatch on V2, at the last rollback.",
            [(f"max({selector('poolshift_rollback_last_dispatch_seconds')})", "last rollback")],
            unit="s",
            warn_at=0.5,
            alarm_at=1.0,
            sparkline=False,
        )
    )


def _evidence(built: dashboard.Dashboard) -> None:
    log_e, threshold = (
        f"max by (guardrail) ({selector(f'poolshift_judge_{name}')})" for name in ("log_e_value", "threshold")
    )
    built.with_row(row("Evidence: what the judge goes by, on the calls of all replicas")).with_panel(
        lines(
            "Evidence to its threshold",
            "The log e-value of each guardrail as a share of its threshold. At 1 the guardrail acts; below 0 the calls"
            " speak for V2. It may be looked at as often as one likes (docs/judge.md).",
            [(f"{log_e} / {threshold}", "{{guardrail}}")],
            unit="percentunit",
            width=12,
            minimum=None,
        )
    ).with_panel(
        lines(
            "Log e-values and thresholds",
            "The same in themselves: each guardrail's evidence, and the line that it must not reach.",
            [(log_e, "{{guardrail}}"), (threshold, "{{guardrail}} threshold")],
            unit="none",
            width=12,
            minimum=None,
        )
    )
    for guardrail, what in ROLLING_BACK.items():
        built.with_panel(_ratio(guardrail, what))
    built.with_panel(
        lines(
            "State of the ramp",
            "1 for the state that the ramp is in.",
            [(f"max by (state) ({selector('poolshift_rollout_state')})", "{{state}}")],
            unit="none",
            maximum=1,
            stepped=True,
        )
    ).with_panel(
        lines(
            "Step of the plan",
            "From 1; 0 before the first.",
            [(f"max({selector('poolshift_rollout_step')})", "step")],
            unit="none",
            stepped=True,
        )
    ).with_panel(
        lines(
            "Calls in the evidence",
            "Organic calls that the judge counts, of all replicas. It begins again with each start.",
            [(f"sum by (pool_version) ({selector('poolshift_judge_calls_total')})", "{{pool_version}}")],
        )
    )


def _ratio(guardrail: str, what: str) -> timeseries.Panel:
    """V2 over V1 with its always-valid interval; the line is the interval's middle on a logarithmic scale."""
    matcher = f'guardrail="{guardrail}"'
    low, high = (
        f"clamp_max(max({selector(f'poolshift_judge_ratio_{end}', matcher)}), {ANY_RATIO})"
        for end in ("lower", "upper")
    )
    return interval_lines(
        f"V2 over V1: {what}",
        f"Always-valid interval, {ANY_RATIO} for «any». Wholly above 1, V2 is worse.",
        (f"sqrt({low} * {high})", "middle"),
        (low, "lower end"),
        (high, "upper end"),
        unit="none",
        width=6,
    )


def _traffic(built: dashboard.Dashboard) -> None:
    built.with_row(row("Traffic")).with_panel(
        lines("Rate", "Calls answered, well or not.", [(rate(REQUESTS), "{{pool_version}}")], unit="reqps")
    ).with_panel(
        lines(
            "V2's share, wanted and had",
            "The two part where sessions stick to V1, where calls are forced, or where a pool is pinned.",
            [
                (f"avg({selector('poolshift_canary_percent')}) / 100", "wanted"),
                (f"sum({rate(REQUESTS, V2)}) / (sum({rate(REQUESTS)}) > 0)", "v2 had"),
            ],
            unit="percentunit",
            maximum=1,
        )
    ).with_panel(
        lines(
            "Decisions",
            "What decided: the split, an admin's header, or the pin. Only the split is the canary's own traffic.",
            [(rate("poolshift_routing_decisions_total", by="pool_version, reason"), "{{pool_version}} {{reason}}")],
            unit="reqps",
        )
    )


def _faults(built: dashboard.Dashboard) -> None:
    built.with_row(
        row("Faults: errors but for clients' mistakes and the LM's failures, which say nothing about a version")
    ).with_panel(
        lines(
            "Share of faults",
            "Faulty calls to all that a version can be judged by.",
            [(share(rate(REQUESTS, FAULTS), rate(REQUESTS, JUDGED)), "{{pool_version}}")],
            unit="percentunit",
            width=12,
        )
    ).with_panel(
        interval_lines(
            "Difference V2 − V1, with its 95 % interval",
            "Over the window. Where the band holds zero, the versions cannot be told apart; above it V2 is worse."
            " Interval: Agresti and Caffo, The American Statistician 54 (2000).",
            (fault_difference(), "difference"),
            (fault_difference_bound("-"), "lower end"),
            (fault_difference_bound("+"), "upper end"),
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "Faults by code",
            "What went wrong.",
            [(rate(REQUESTS, FAULTS, by="pool_version, outcome"), "{{pool_version}} {{outcome}}")],
            unit="reqps",
            width=12,
        )
    ).with_panel(
        lines(
            "Not judged: clients' mistakes and the LM's failures",
            "Malformed requests, unknown programs, inputs that do not fit, an LM that fails or is not there.",
            [
                (
                    rate("poolshift_errors_total", *EXCUSED_ERRORS, by="pool_version, code"),
                    "{{pool_version}} {{code}}",
                ),
                (
                    rate("poolshift_errors_total", 'code="invalid_inputs"', by="pool_version, code"),
                    "{{pool_version}} {{code}}",
                ),
            ],
            unit="reqps",
            width=12,
        )
    )


def _latency(built: dashboard.Dashboard) -> None:
    built.with_row(row("Latency, from the routing decision to the answer"))
    for name, phi in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        built.with_panel(
            lines(
                name,
                f"{phi:.0%} of the calls took no longer. As fine as the histogram's buckets.",
                [(quantile(phi, DURATION), "{{pool_version}}")],
                unit="s",
                exemplars=True,
            )
        )
    for name, version in (("V1", V1), ("V2", V2)):
        built.with_panel(
            interval_lines(
                f"{name}: p99 with its 95 % interval",
                "Over the window, by ranks (Conover, Practical Nonparametric Statistics, 3.2): a p99 of few calls is"
                " little more than the slowest of them.",
                (window_quantile(0.99, version), "{{pool_version}} p99"),
                (quantile_bound(0.99, version, "-"), "lower end"),
                (quantile_bound(0.99, version, "+"), "upper end"),
                unit="s",
            )
        )
    for name, version in (("V1", V1), ("V2", V2)):
        buckets = rate(f"{DURATION}_bucket", version, by="le")
        built.with_panel(density(f"{name}: durations", "Every call, by how long it took.", buckets))
    built.with_panel(
        lines(
            "Of that in the queue: p95",
            "The wait for a worker. V1 runs one call at a time, so that its calls wait for one another.",
            [(quantile(0.95, "poolshift_queue_wait_seconds"), "{{pool_version}}")],
            unit="s",
            width=12,
        )
    ).with_panel(
        lines(
            "p99 of V2 to p99 of V1",
            "Above 1 V2 is slower. Without an interval: see those of the two p99 above.",
            [
                (
                    f"sum({quantile(0.99, DURATION, V2)}) / sum({quantile(0.99, DURATION, V1)})",
                    "v2 to v1",
                )
            ],
            unit="none",
            width=12,
        )
    )


def _programs(built: dashboard.Dashboard) -> None:
    by = "program, pool_version"
    legend = "{{program}} {{pool_version}}"
    built.with_row(row('Single programs: those that are created with "metrics": true')).with_panel(
        lines(
            "Rate by program",
            "Calls of each program that has metrics of its own, by version.",
            [(of_programs(rate(PROGRAM_REQUESTS, by=by)), legend)],
            unit="reqps",
        )
    ).with_panel(
        lines(
            "Faults by program",
            "Shares of faulty calls, without those that judge no version: which program is worse on V2.",
            [
                (
                    of_programs(share(rate(PROGRAM_REQUESTS, FAULTS, by=by), rate(PROGRAM_REQUESTS, JUDGED, by=by))),
                    legend,
                )
            ],
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "p95 by program",
            "From the routing decision to the answer: which program is slower on V2.",
            [(of_programs(quantile(0.95, PROGRAM_DURATION, by=by)), legend)],
            unit="s",
        )
    )


def _shadow(built: dashboard.Dashboard) -> None:
    score = "poolshift_quality_score"
    built.with_row(row("Shadow calls: copies of V1's calls on V2, and scores by the programs' metrics")).with_panel(
        lines(
            "Shadow calls",
            "Compared, and left out: shed ones found no idle worker, preempted ones made room for a real call.",
            [(rate("poolshift_shadow_calls_total", by="outcome"), "{{outcome}}")],
            unit="reqps",
        )
    ).with_panel(
        lines(
            "Outputs that differ",
            "By the odd one after V1 has run again: v2 is evidence of a difference, v1 and none are noise.",
            [(rate("poolshift_shadow_differences_total", by="odd"), "{{odd}} is odd")],
            unit="ops",
        )
    ).with_panel(
        lines(
            "Mean score",
            "Quality by the programs' own metrics, as a share of their ranges, over the window; 0 without a score.",
            [
                (
                    f"sum by (pool_version) (increase({selector(f'{score}_sum')}[{WINDOW}])) / "
                    f"clamp_min(sum by (pool_version) (increase({selector(f'{score}_count')}[{WINDOW}])), 1)",
                    "{{pool_version}}",
                )
            ],
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "Metrics without a score",
            "Runs of a metric that raised, hung or returned no number: no part of the quality.",
            [(rate("poolshift_quality_failures_total", by="reason"), "{{reason}}")],
            unit="ops",
            width=24,
        )
    )


def _rollout(built: dashboard.Dashboard) -> None:
    built.with_row(row("The rollout on each replica")).with_panel(
        lines(
            "Canary percentage",
            "Lines that part are replicas that disagree.",
            [(selector("poolshift_canary_percent"), REPLICA)],
            unit="percent",
            maximum=100,
            stepped=True,
        )
    ).with_panel(
        lines(
            "Revision",
            "Each change of the rollout counts it up.",
            [(selector("poolshift_rollout_revision"), REPLICA)],
            unit="none",
            minimum=None,
            stepped=True,
        )
    ).with_panel(
        lines(
            "Staleness",
            "Since when a replica has not known that its rollout is the newest; always 0 with SQLite.",
            [(selector("poolshift_rollout_staleness_seconds"), REPLICA)],
            unit="s",
        )
    )
