"""Checks that look at the live service and change nothing: metrics, error rates, documentation."""

import itertools
from collections.abc import Sequence
from typing import Any

import httpx

from cli.scrape import Scrape
from cli.validation.conformance import Target
from cli.validation.measure import Inputs
from cli.validation.outcome import Outcome

REQUIRED = (
    "poolshift_requests",
    "poolshift_request_duration_seconds",
    "poolshift_queue_wait_seconds",
    "poolshift_errors",
    "poolshift_routing_decisions",
    "poolshift_pool_workers",
    "poolshift_pool_utilization_ratio",
    "poolshift_queue_depth",
    "poolshift_worker_starts",
    "poolshift_worker_exits",
)
"""Families that have series of both versions from the start."""
MAX_SERIES = 20_000
SCRAPES = "poolshift_metrics_scrapes_total"
NEAR_PROMOTION = 2.0
"""V2's faults over V1's: a ratio that is surely below counts as no more errors."""
FAULT_GUARDRAILS = ("engine", "program")
MAX_NAMED = 5
MAX_PROGRAMS = 20
"""Programs whose tokens are compared."""


def scrape(client: httpx.Client) -> Scrape:
    """Reads the metrics of the service."""
    return Scrape(client.get("/metrics").text)


def check_metrics(
    client: httpx.Client, before: Scrape, own_scrapes: int, pools: Sequence[str], inputs: Sequence[Inputs] = ()
) -> Outcome:
    """Looks for families that are missing, for a number of series that grows, and for somebody who scrapes.

    A V2 whose calls of the programs in `inputs` use a model and count no token leaves its series of tokens silent.
    """
    now = scrape(client)
    names, versions = now.series, now.versions()
    missing = [name for name in REQUIRED if not set(pools) <= versions.get(name, set())]
    if missing:
        return Outcome("metrics", "not_met", f"no series of {', '.join(missing)}", "docs/metrics.md")
    grown = len(names - before.series)
    told = f"{len(names):,} series, {grown:,} of them new since the validation began"
    if len(names) > MAX_SERIES or grown > len(names) / 4:
        return Outcome("metrics", "not_met", told, "docs/metrics.md says which labels a family may have")
    if set(pools) == {"v1", "v2"} and (silent := _without_tokens(client, inputs)):
        how = "call the model through dspy.LM; a V2 without a model has a definition of type python"
        told = f"poolshift_lm_tokens of v2 is silent: V1 counts the tokens of {', '.join(silent)}, and V2 none"
        return Outcome("metrics", "not_met", told, how)
    others = now.total(SCRAPES) - before.total(SCRAPES) - own_scrapes
    if others <= 0:
        return Outcome(
            "metrics", "unknown", f"{told}; nobody has scraped /metrics", "let Prometheus scrape the service"
        )
    return Outcome("metrics", "met", f"{told}; somebody scrapes them", figures={"series": len(names)})


def _without_tokens(client: httpx.Client, inputs: Sequence[Inputs]) -> list[str]:
    """Runs DSPy programs once on each version, and names those whose tokens V1 counts and V2 does not."""
    first = {one.program: one for one in reversed(inputs)}
    return [
        one.program
        for one in itertools.islice(first.values(), MAX_PROGRAMS)
        if _tokens(client, "v1", one) and _tokens(client, "v2", one) == 0
    ]


def _tokens(client: httpx.Client, version: str, one: Inputs) -> int | None:
    """The tokens of a call; None if it fails, or if the program is not one of DSPy's."""
    answer = Target(client, version).execute(one.program, inputs=one.inputs)
    usage = answer.json().get("usage") if answer.is_success else None
    return None if usage is None else int(usage["prompt_tokens"] + usage["completion_tokens"])


def check_error_rate(client: httpx.Client) -> Outcome:
    """Reads the judge's evidence on organic calls, else that of the shadow runs; both must have enough of each program.

    Otherwise a program that fails in each call is hidden by others that have many calls and no fault.
    """
    rows = [row for row in client.get("/rollout/analysis").json() if row["name"] in FAULT_GUARDRAILS]
    answer = client.get("/shadow")
    shadow: dict[str, Any] = answer.json() if answer.is_success else {}
    if (found := _against(rows, shadow) or _suspected(rows, shadow)) is not None:
        return found
    coverage: dict[str, Any] = client.get("/migration").json()["coverage"]
    ratios = _non_inferior(rows)
    if (lacking := _lacking(coverage, has_ratios=ratios is not None)) is not None:
        return Outcome("error_rate", "unknown", lacking, "poolshift rollout set 0 --shadow 10")
    told = ratios or f"{shadow['compared']:,} shadow calls, no field differs beyond V1's own noise"
    each = f"{coverage['programs']} programs with traffic, each with {coverage['min_calls']} calls or copies at least"
    return Outcome("error_rate", "met", f"{told}; {each}")


def _against(rows: Sequence[dict[str, Any]], shadow: dict[str, Any]) -> Outcome | None:
    names = [row["name"] for row in rows if row["finding"] == "against"]
    if names:
        told = f"the judge sees more faults of V2: {', '.join(names)}"
        return Outcome("error_rate", "not_met", told, "poolshift rollout status")
    if (fields := _fields_of(shadow, "differs")) is not None:
        return Outcome("error_rate", "not_met", f"shadow runs differ in {fields}", "poolshift shadow report")
    return None


def _suspected(rows: Sequence[dict[str, Any]], shadow: dict[str, Any]) -> Outcome | None:
    suspected = [_suspicion(row) for row in rows if row["finding"] == "suspected"]
    if (fields := _fields_of(shadow, "suspected")) is not None:
        suspected.append(f"shadow runs in {fields}")
    if not suspected:
        return None
    told = f"suspected, and not shown: {'; '.join(suspected)}"
    return Outcome("error_rate", "unknown", told, "poolshift shadow report")


def _lacking(coverage: dict[str, Any], *, has_ratios: bool) -> str | None:
    """Tells of which programs with traffic V2 has run too few calls or copies; without ratios, copies alone count."""
    programs, short, min_calls = coverage["programs"], coverage["short"], coverage["min_calls"]
    if not programs:
        return "no program had a call in the last 24 h"
    if short:
        named = ", ".join(f"{one['program_id']} {one['calls'] + one['copies']}" for one in short[:MAX_NAMED])
        more = ", …" if len(short) > MAX_NAMED else ""
        return (
            f"V2 needs {min_calls} calls or copies of each program; {len(short)} of {programs} lack some: {named}{more}"
        )
    if not has_ratios and coverage["copied"] < programs:
        return f"no ratio is known yet, and {coverage['copied']} of {programs} programs have {min_calls} copies"
    return None


def _non_inferior(rows: Sequence[dict[str, Any]]) -> str | None:
    """Tells how small the ratios surely are; None if one may be `NEAR_PROMOTION` or more."""
    highs = {row["name"]: row["ratio"][1] for row in rows if row.get("ratio")}
    if not highs or any(high is None or high >= NEAR_PROMOTION for high in highs.values()):
        return None
    return "the judge: " + ", ".join(f"{name} at most {high:.2f} × V1's" for name, high in highs.items())


def _suspicion(row: dict[str, Any]) -> str:
    v1, v2 = row["v1"], row["v2"]
    return f"{row['name']}, {v2['faults']:,} of V2's {v2['calls']:,} calls, {v1['faults']:,} of V1's {v1['calls']:,}"


def _fields_of(shadow: dict[str, Any], verdict: str) -> str | None:
    """Names the fields with a verdict, with their counts; None if there is no such field."""
    found = [
        f"{one.get('program_id', '')} {one['field']} ({one['differing']:,} of {one['compared']:,} copies)"
        for one in shadow.get("fields", [])
        if one["verdict"] == verdict
    ]
    return ", ".join(found) if found else None


def check_documentation(client: httpx.Client, programs: Sequence[dict[str, Any]]) -> Outcome:
    """Looks for programs without a description, and asks each problem's page for an answer."""
    silent = [one["id"] for one in programs if not _description(one)]
    if silent:
        shown = ", ".join(silent[:10]) + (", …" if len(silent) > 10 else "")
        how = "give the signature a description, or the program instructions"
        return Outcome("documentation", "not_met", f"{len(silent)} programs have no description: {shown}", how)
    for page in ("/problems/worker_crashed", "/problems/pool_overloaded", "/openapi.json"):
        if not client.get(page).is_success:
            return Outcome("documentation", "not_met", f"{page} does not answer", "")
    return Outcome("documentation", "met", f"all programs have a description ({len(programs)}), and the pages answer")


def _description(program: dict[str, Any]) -> str:
    signature = program.get("signature") or {}
    return signature.get("description") or program.get("instructions") or ""
