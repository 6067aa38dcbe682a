"""`poolshift migration`: where the migration is, the validation, its report, and what the last days recommend."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import httpx
import typer

from cli.errors import CommandFailed, ExitCode
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.service import Service, on_service
from poolshift.client import migration

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.validation.outcome import Outcome
    from cli.validation.run import Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Leads through the migration from V1 to V2.")

MEMORY_S = 20.0
THOROUGH_MEMORY_S = 300.0


@app.command("status")
@on_service
def show_status(service: Service, *, as_json: AsJson = False) -> None:
    """Shows the phase, what speaks against the next one, the checklist, and the command that comes next."""
    found = service.ask(migration.show())
    if as_json:
        print_json(found)
        return
    fields = {"phase": found["phase"], "next": found["next"] or "nothing: the migration is done"}
    for number, objection in enumerate(found["against"]):
        fields["against" if number == 0 else f"against {number + 1}"] = objection
    if (faults := found.get("v2_faults")) is not None:
        fields["V2's faults now"] = f"{_rate(faults['now'])} in the last {faults['seconds'] / 60:g} min"
        fields["at the promotion"] = _rate(faults["at_promotion"])
    for number, setting in enumerate(found.get("settings", ())):
        fields["nothing needs V1" if number == 0 else "or"] = setting
    if found["v1_sunset"]:
        fields["V1 ends"] = when(found["v1_sunset"])
    print_fields(fields)
    print_rows(
        ("ITEM", "STATE", "EVIDENCE"), [(one["item"], one["state"], one["evidence"]) for one in found["checklist"]]
    )


def _rate(tally: dict[str, int]) -> str:
    share = f" ({100 * tally['faults'] / tally['calls']:.2g} %)" if tally["calls"] else ""
    return f"{tally['faults']:,} of {tally['calls']:,} calls{share}"


@app.command("validate")
@on_service
def validate_service(
    service: Service,
    *,
    inputs: Annotated[
        Path | None,
        typer.Option(help="JSON lines of program_id and inputs: idempotent calls of yours, for benchmarks and load."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="The peak in calls a second, if not the counted one.")
    ] = None,
    multiple: Annotated[float, typer.Option(min=0.1, max=100, help="The load, as a multiple of the peak.")] = 2.0,
    thorough: Annotated[bool, typer.Option("--thorough", help="Measure the memory for minutes, not seconds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Runs the ten checks in some minutes, and stores the result; exit code 1 if an item is not met.

    Calls of the live service are marked synthetic and count in no organic figure. Crashes and the like are provoked on
    a service with the same pools that is started beside.
    """
    # Imported here, since the other commands are quicker without it.
    from cli.validation.measure import read_inputs  # noqa: PLC0415
    from cli.validation.run import Plan  # noqa: PLC0415

    try:
        calls = [] if inputs is None else read_inputs(inputs)
    except (OSError, ValueError) as error:
        raise CommandFailed(ExitCode.USAGE, f"{inputs}: {error}") from None
    memory_s = THOROUGH_MEMORY_S if thorough else MEMORY_S
    plan = Plan(inputs=calls, rate=rate, multiple=multiple, memory_s=memory_s)

    def tell(outcome: Any) -> None:
        if not as_json:
            print(f"{outcome.item:<13} {outcome.state:<8} {outcome.evidence}", flush=True)

    pools, outcomes = _run(service, plan, tell)
    items = [
        {"item": one.item, "state": one.state, "evidence": one.evidence[:4096], "how": one.how} for one in outcomes
    ]
    figures = {one.item: one.figures for one in outcomes if one.figures}
    stored = service.ask(migration.add_validation(pools, items, report=figures))
    if as_json:
        print_json(stored)
    if any(one.state == "not_met" for one in outcomes):
        raise typer.Exit(1)


def _run(service: Service, plan: "Plan", tell: "Callable[[Outcome], None]") -> "tuple[str, list[Outcome]]":
    """Validates, and ends the scratch service also if this process is asked to end. Raises CommandFailed."""
    from cli.validation.run import NotAdmin, Unusable, validate  # noqa: PLC0415 - as above

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the scratch service ends, too
    service.ask(migration.show())  # a dead service and a wrong key are told as by all commands
    try:
        return validate(service.http, plan, tell)
    except Unusable as error:
        exit_code = ExitCode.NOT_ALLOWED if isinstance(error, NotAdmin) else ExitCode.USAGE
        raise CommandFailed(exit_code, str(error)) from None
    except httpx.HTTPError as error:
        raise CommandFailed(ExitCode.UNREACHABLE, f"the validation cannot go on: {error}") from None


@app.command("report")
@on_service
def show_report(
    service: Service,
    *,
    form: Annotated[Literal["markdown", "html", "junit"], typer.Option("--format", help="The form.")] = "markdown",
    as_json: AsJson = False,
) -> None:
    """Writes the newest validation to standard output, for those who decide."""
    from cli.validation import report  # noqa: PLC0415 - as above

    found = service.ask(migration.report())
    if as_json:
        print_json(found)
        return
    print({"markdown": report.markdown, "html": report.page, "junit": report.junit}[form](found), end="")


@app.command("tick")
@on_service
def tick_item(
    service: Service,
    item: Annotated[
        str, typer.Argument(metavar="ITEM", help="`documentation`, or an item under `manual` of the plan.")
    ],
    *,
    note: Annotated[str | None, typer.Option(help="What was looked at.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the confirmation back.")] = False,
) -> None:
    """Confirms an item that no check can tell, with your key's name and the time, and shows the item."""
    found = service.ask(migration.untick(item) if undo else migration.tick(item, note=note))
    shown = next(one for one in found["checklist"] if one["item"] == item)
    print(f"{item}: {shown['state']}, {shown['evidence']}")


@app.command("tune")
@on_service
def tune_pools(service: Service, *, as_json: AsJson = False) -> None:
    """Recommends pool size, queue limit and timeouts from the last days' figures, and says what it does not know."""
    from cli.validation.tuning import recommend  # noqa: PLC0415 - as above

    advice = recommend(service.http)
    if as_json:
        print_json(advice)
        return
    for one in advice:
        print_fields({name: value for name, value in one.items() if value is not None})
