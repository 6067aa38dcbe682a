"""`poolshift rollout plan`, `start` and the like, `status`, `watch`: a ramp that goes on by itself."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.rollout.watch import Watch
from cli.rollout.watch_screen import (
    condition_texts,
    duration_text,
    finding_text,
    percent_text,
    promotion_text,
    split_text,
)
from cli.service import Service, on_service
from poolshift.client import ramp

_MARGINS = (("faults", "fault"), ("time", "latency"), ("cost", "cost"))
Reason = Annotated[str | None, typer.Option(help="The reason for the history.")]

plan_app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Shows, sets and clears the plan.")


@plan_app.command("show")
@on_service
def show_plan(service: Service, *, as_json: AsJson = False) -> None:
    """Shows the plan; `plan set` takes its JSON back."""
    _show_plan(service.ask(ramp.show_plan()), as_json=as_json)


@plan_app.command("set")
@on_service
def set_plan(
    service: Service,
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML or JSON; - is standard input.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Sets the plan that the next start carries out (exit code 4 while one is under way)."""
    _show_plan(service.ask(ramp.set_plan(_content(file))), as_json=as_json)


@plan_app.command("clear")
@on_service
def clear_plan(service: Service) -> None:
    """Forgets the plan (exit code 4 while it is under way)."""
    service.ask(ramp.clear_plan())


@on_service
def start(
    service: Service,
    *,
    reason: Reason = None,
    lower: Annotated[
        bool, typer.Option("--lower", help="Begin although V2 gets more than the plan's first step gives it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Begins the plan at its first step, with no evidence."""
    _show_status(service.ask(ramp.start(reason=reason, lower=lower or None)), as_json=as_json)


@on_service
def pause(service: Service, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Stops the ramp where it is."""
    _show_status(service.ask(ramp.pause(reason=reason)), as_json=as_json)


@on_service
def resume(service: Service, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Goes on at the step that the ramp stopped at, in spite of the guardrail that paused it."""
    _show_status(service.ask(ramp.resume(reason=reason)), as_json=as_json)


@on_service
def approve(
    service: Service,
    *,
    step: Annotated[
        int | None, typer.Option(min=1, help="The step that is meant; exit code 4 if the ramp is at another one.")
    ] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Lets the ramp leave a step that waits for a person's approval; without --step, the step that it is at now."""
    if step is None:
        step = service.ask(ramp.status())["step"] or None
    _show_status(service.ask(ramp.approve(reason=reason, step=step)), as_json=as_json)


@on_service
def promote(service: Service, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Gives V2 everything without waiting for evidence; the history says so."""
    _show_status(service.ask(ramp.promote(reason=reason)), as_json=as_json)


@on_service
def abort(service: Service, *, reason: Reason = None, as_json: AsJson = False) -> None:
    """Ends the plan, and sends all traffic to V1."""
    _show_status(service.ask(ramp.abort(reason=reason)), as_json=as_json)


@on_service
def status(service: Service, *, as_json: AsJson = False) -> None:
    """Shows the ramp: its state and step, the verdict, what comes next, and the split on each replica."""
    _show_status(service.ask(ramp.status()), as_json=as_json)


@on_service
def analysis(service: Service, *, as_json: AsJson = False) -> None:
    """Shows the evidence of each guardrail."""
    rows = service.ask(ramp.analysis())
    if as_json:
        print_json(rows)
        return
    print_rows(
        (
            "GUARDRAIL",
            "ACTS BY",
            "V2 IS",
            "V1 FAULTS",
            "V1 CALLS",
            "V2 FAULTS",
            "V2 CALLS",
            "LOG E",
            "THRESHOLD",
            "MOSTLY",
        ),
        [
            (
                row["name"],
                row["action"],
                finding_text(row),
                row["v1"]["faults"],
                row["v1"]["calls"],
                row["v2"]["faults"],
                row["v2"]["calls"],
                round(row["log_e"], 2),
                round(row["threshold"], 2),
                row["stratum"],
            )
            for row in rows
        ],
    )


@on_service
def decisions(
    service: Service,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Verdicts to show at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Shows the verdicts, the newest first; --json has the evidence that each was made on."""
    found = service.items(ramp.decisions(limit=limit))
    if as_json:
        print_json(found)
        return
    print_rows(("VERDICT", "GUARDRAIL", "WHEN"), [(one["verdict"], one["guardrail"], when(one["at"])) for one in found])


@on_service
def watch(
    service: Service,
    *,
    until_done: Annotated[
        bool,
        typer.Option(
            "--until-done", help="End with the ramp: exit code 0 if V2 is promoted, 1 if it is rolled back or aborted."
        ),
    ] = False,
) -> None:
    """Shows the ramp and its evidence, each second; without a terminal, a line for each change."""
    end = Watch(service, until_done=until_done).run()
    if not end.is_promoted:
        raise CommandFailed(ExitCode.REFUSED, f"{end.state}: {end.reason or 'no reason given'}")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to `poolshift rollout`."""
    app.add_typer(plan_app, name="plan")
    for command in (start, pause, resume, approve, promote, abort, status, analysis, decisions, watch):
        app.command(command.__name__)(command)


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{file}: {error.strerror}") from None


def _show_plan(plan: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    wait = plan["max_wait_s"]
    print_fields(
        {
            "plan": plan["name"],
            "inconclusive": plan["on_inconclusive"] + (f" after {duration_text(wait)}" if wait is not None else ""),
            **({} if plan.get("guard", True) else {"guard": "off: a paused ramp is not rolled back"}),
            **_coverage_field(plan.get("coverage")),
            **_after_field(plan.get("after")),
            "margins": ", ".join(f"{what} × {plan[f'{name}_margin']:g}" for what, name in _MARGINS),
            **{f"guardrail {name}": _guardrail(one) for name, one in plan["guardrails"].items()},
        }
    )
    rows = [(index, percent_text(step), *condition_texts(step)) for index, step in enumerate(plan["steps"], start=1)]
    print_rows(("STEP", "V2", "HOLD", "CALLS", "APPROVAL"), rows)


def _coverage_field(coverage: dict[str, Any] | None) -> dict[str, str]:
    if coverage is None:
        return {}
    return {"coverage": f"{coverage['min_calls']:,} calls of {100 * coverage['programs']:g} % of the programs on V2"}


def _after_field(after: dict[str, Any] | None) -> dict[str, str]:
    if after is None:
        return {}
    return {"after": f"{after['action']} if V2 becomes worse within {duration_text(after['watch_s'])}"}


def _guardrail(one: dict[str, Any]) -> str:
    """Tells what a plan changes about a guardrail."""
    told = [one["action"]] if one["action"] else []
    if one.get("back_to") is not None:
        told.append(f"back to {one['back_to']:g} %")
    return ", ".join([*told, "promotion waits for it"] if one.get("promotes") else told)


def _pin(status: dict[str, Any]) -> str | None:
    return f"{status['pin']}: POOL_VERSION overrides the ramp" if status.get("pin") else None


def _troubles(status: dict[str, Any]) -> dict[str, str | None]:
    missing = status.get("missing_replicas")
    return {
        "silent": ", ".join(status["silent"]) or None,
        "database": status.get("database"),
        "missing": f"replica {'; replica '.join(missing)}" if missing else None,
    }


def _show_status(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(status)
        return
    fields = {
        "warning": status.get("warning"),
        "state": f"{status['state']} since {when(status['since'])} by {status['by']}",
        "reason": status["reason"] or "-",
        "step": f"{status['step']} of {status['steps']}",
        "pinned to": _pin(status),
        "verdict": status["verdict"] + (f" ({status['guardrail']})" if status["guardrail"] else ""),
        "next": status["next"],
        "promotion": promotion_text(status) or None,
        "split": split_text(status["split"]),
        "shadow": f"{status['shadow_percent']:g} % of V1's calls" if status.get("shadow_percent") else None,
        "in force": "on every replica" if status["in_force"] else "not on every replica",
        **_troubles(status),
    }
    print_fields({name: value for name, value in fields.items() if value is not None})
    rows = [
        (one["id"], "silent" if one["is_silent"] else "yes", one["rollout_revision"], split_text(one["split"]))
        for one in status["replicas"]
    ]
    if len(rows) > 1:
        print_rows(("REPLICA", "HEARD", "REVISION", "SPLIT"), rows)
