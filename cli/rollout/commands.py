"""`poolshift rollout`: shows, changes and rolls back the flag; the commands of a ramp are in `cli.rollout.ramp`."""

import time
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from cli.errors import Refused
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.rollout import ramp
from cli.rollout.ramp import Reason
from cli.service import Service, on_service
from poolshift.client import rollout

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Shows and changes the canary percentage.")
ramp.add_to(app)


@app.command("get")
@on_service
def get_rollout(service: Service, *, as_json: AsJson = False) -> None:
    """Shows V2's share of the traffic, and who set it."""
    _show(service.ask(rollout.show()), as_json=as_json)


@app.command("set")
@on_service
def set_rollout(
    service: Service,
    percent: Annotated[
        float, typer.Argument(metavar="PERCENT", help="The share of V2, in steps of 0.01.", min=0, max=100)
    ],
    *,
    shadow: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="The share of V1's calls that also run on V2.", min=0, max=100),
    ] = None,
    reason: Reason = None,
    if_revision: Annotated[
        int | None, typer.Option(min=0, help="The revision to change; exit code 4 if another is current.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sets V2's share of the traffic, from the next call on."""
    change = rollout.change(percent, shadow_percent=shadow, reason=reason, expected_revision=if_revision)
    _show(service.ask(change), as_json=as_json)


@app.command("rollback")
@on_service
def roll_back(
    service: Service,
    *,
    reason: Reason = None,
    in_flight: Annotated[
        Literal["finish", "replay"] | None,
        typer.Option(help="Calls that run on V2 finish there; with replay, idempotent ones run again on V1."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Watch for some seconds that it has worked; exit code 1 if not.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sends all traffic to V1, from the next call on."""
    began = time.monotonic()
    unwritten = None
    try:
        flag = service.ask(rollout.roll_back(reason=reason, in_flight=in_flight))
    except Refused as refusal:  # the rollback is in force where it was asked for
        if not verify or refusal.code != "store_unavailable":
            raise
        unwritten = str(refusal)
    if not verify:
        _show(flag, as_json=as_json)
        return
    from cli.rollout.rollback_check import verified  # noqa: PLC0415 - it knows the service's errors: slow to import

    findings = verified(service, began, unwritten)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{'yes' if finding.holds else 'NO '}  {finding.told}")
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


@app.command("rotate")
@on_service
def rotate(
    service: Service,
    *,
    reason: Reason = None,
    unproven: Annotated[
        bool,
        typer.Option("--unproven", help="Without evidence that V2 has been tried: takes an admin and a reason."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Makes V2's specification V1's and sets 0 %, for the next migration; returns when V1's new workers serve."""
    _show(service.ask(rollout.rotate(reason=reason, unproven=unproven or None)), as_json=as_json)


@app.command("unrotate")
@on_service
def unrotate(
    service: Service,
    *,
    reason: Reason = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although the code on disk breaks programs: takes an admin and a reason.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Takes the last rotation back: V1 is what it was before, at 0 %; returns when V1's workers serve."""
    flag = service.ask(rollout.unrotate(reason=reason, force=force or None))
    _show(flag, as_json=as_json)
    if as_json:
        return
    if flag["kept_programs"]:
        print(f"changed since the rotation, and not taken back: {', '.join(flag['kept_programs'])}")
    if flag["kept_lm"]:
        print("V1's language model was set since the rotation, and is not taken back")


@app.command("history")
@on_service
def show_history(
    service: Service,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Changes to show at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Shows the changes, the newest first."""
    changes = service.items(rollout.history(limit=limit))
    if as_json:
        print_json(changes)
        return
    has_shadow = any(change["shadow_percent"] for change in changes)
    print_rows(
        ("REVISION", "FROM %", "TO %", *(("SHADOW %",) if has_shadow else ()), "SOURCE", "WHEN", "WHO", "WHY"),
        [
            (
                change["revision"],
                change["from_percent"],
                change["to_percent"],
                *((change["shadow_percent"],) if has_shadow else ()),
                change["source"],
                when(change["updated_at"]),
                change["updated_by"],
                change["reason"],
            )
            for change in changes
        ],
    )


def _show(flag: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(flag)
        return
    pin, missing = flag["pool_version"], flag.get("missing_replicas")
    print_fields(
        {
            "canary": f"{flag['canary_percent']:.10g} %",
            **({"pinned to": f"{pin}: POOL_VERSION overrides the canary"} if pin else {}),
            **({"shadow": f"{flag['shadow_percent']:.10g} %"} if flag["shadow_percent"] else {}),
            "revision": flag["revision"],
            "source": flag["source"],
            "updated": f"{when(flag['updated_at'])} by {flag['updated_by']}",
            "reason": flag["reason"],
            **({"note": flag["note"]} if flag.get("note") else {}),
            **({"not done by": f"replica {'; replica '.join(missing)}"} if missing else {}),
        }
    )
