"""The PromQL that the dashboards share: what counts as a fault, quantiles, and how sure a difference is.

Queries stand on the scraped metrics alone, not on the recording rules, so that the dashboards work wherever `/metrics`
is scraped.
"""

from app.problem_kinds import KINDS

SCOPE = 'job=~"$job", instance=~"$instance"'
REPLICA = "{{instance}} {{replica}}"
"""The legend of a replica. The only one of its instance has no number."""
WINDOW = "$window"
RATE = "$__rate_interval"
Z_95 = 1.96
"""The standard normal's 97.5th percentile: two-sided 95 % intervals."""

EXCUSED = "|".join(
    sorted(
        code
        for code, kind in KINDS.items()
        if kind.category in ("request", "session", "upstream") or code == "invalid_inputs"
    )
)
"""Outcomes that say nothing about a version: mistakes of the client, and the weather at the LM."""

JUDGED = f'outcome!~"{EXCUSED}"'
FAULTS = f'outcome!~"ok|{EXCUSED}"'
FAILED_ENDS = 'cause=~"crash|signal|oom"'
V1, V2 = (f'pool_version="{version}"' for version in ("v1", "v2"))
PROGRAM_REQUESTS = "poolshift_program_requests_total"
NO_PROGRAMS = "no program has metrics of its own"
SHED = 'outcome=~"pool_overloaded|checkout_timeout"'


ASKED_FOR = 'operation!~"shadow|synthetic"'
"""Calls that a client has asked for."""
OF_CALLS = ("poolshift_requests_total", "poolshift_request_duration_seconds")


def selector(metric: str, *matchers: str) -> str:
    """`metric` within what the dashboard's variables choose, without calls that no client has asked for."""
    asked_for = (ASKED_FOR,) if metric.startswith(OF_CALLS) else ()
    return f"{metric}{{{', '.join((SCOPE, *asked_for, *matchers))}}}"


def rate(metric: str, *matchers: str, by: str = "pool_version") -> str:
    """Events per second."""
    return f"sum by ({by}) (rate({selector(metric, *matchers)}[{RATE}]))"


def total(metric: str, *matchers: str, by: str = "pool_version") -> str:
    """The sum of a gauge."""
    return f"sum by ({by}) ({selector(metric, *matchers)})"


def share(part: str, whole: str) -> str:
    """`part` of `whole`, 0 where nothing of the part has happened and nothing at all where the whole has not."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def quantile(phi: float, metric: str, *matchers: str, by: str = "pool_version") -> str:
    """A quantile out of a histogram's buckets."""
    return f"histogram_quantile({phi}, {rate(f'{metric}_bucket', *matchers, by=f'{by}, le')})"


def of_programs(query: str) -> str:
    """A query over single programs; while none of them has metrics of its own, a line at 0 that says so."""
    none = f'label_replace(vector(0), "program", "{NO_PROGRAMS}", "", "")'
    return f"{query} or ({none} unless on() {selector(PROGRAM_REQUESTS)})"


def _judged(version: str) -> str:
    return f"sum(increase({selector('poolshift_requests_total', version, JUDGED)}[{WINDOW}]))"


def _faults(version: str) -> str:
    return f"(sum(increase({selector('poolshift_requests_total', version, FAULTS)}[{WINDOW}])) or vector(0))"


def judged_calls() -> str:
    """By version, how many calls the comparison stands on."""
    return f"sum by (pool_version) (increase({selector('poolshift_requests_total', JUDGED)}[{WINDOW}]))"


def fault_difference() -> str:
    """V2's share of faults less V1's, as observed."""
    return f"{_faults(V2)} / ({_judged(V2)} > 0) - {_faults(V1)} / ({_judged(V1)} > 0)"


def fault_difference_bound(sign: str) -> str:
    """One end (`+` or `-`) of the 95 % interval of that difference.

    The interval is that of A. Agresti and B. Caffo, "Simple and Effective Confidence Intervals for Proportions and
    Differences of Proportions Result from Adding Two Successes and Two Failures", The American Statistician 54 (2000):
    one fault and one good call are added to each version. Unlike the textbook's interval it holds for few calls, and
    for a version without any fault.
    """
    adjusted = {version: f"({_faults(version)} + 1) / ({_judged(version)} + 2)" for version in (V1, V2)}
    variance = " + ".join(
        f"({_faults(version)} + 1) * ({_judged(version)} - {_faults(version)} + 1) / ({_judged(version)} + 2) ^ 3"
        for version in (V1, V2)
    )
    # Where rates are extrapolated a count of faults may exceed that of calls by a hair; a variance is never negative.
    return f"{adjusted[V2]} - {adjusted[V1]} {sign} {Z_95} * sqrt(clamp_min({variance}, 0))"


def quantile_bound(phi: float, version: str, sign: str) -> str:
    """One end (`+` or `-`) of the 95 % interval of a quantile of a version's durations over the window.

    By ranks, whatever the distribution (W. J. Conover, "Practical Nonparametric Statistics", chapter 3.2): the share of
    calls below the true quantile has the standard error sqrt(φ(1 − φ)/n). The width of a bucket comes on top.
    """
    buckets = selector("poolshift_request_duration_seconds_bucket", version)
    count = selector("poolshift_request_duration_seconds_count", version)
    error = f"{Z_95} * sqrt({phi} * (1 - {phi}) / sum(increase({count}[{WINDOW}])))"
    rank = f"scalar(clamp({phi} {sign} {error}, 0, 1))"
    return f"histogram_quantile({rank}, sum by (le) (increase({buckets}[{WINDOW}])))"


def window_quantile(phi: float, *matchers: str) -> str:
    """The same quantile itself, by version."""
    buckets = selector("poolshift_request_duration_seconds_bucket", *matchers)
    return f"histogram_quantile({phi}, sum by (pool_version, le) (increase({buckets}[{WINDOW}])))"
