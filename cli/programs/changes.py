"""`poolshift programs delete`, `restore`, `promote` and `demote`: what replaces or removes, and the ways back."""

import sys
from typing import Annotated

import typer

from cli.output import AsJson, print_fields, print_json
from cli.programs.run import OwnDefinition, ProgramId
from cli.programs.view import show
from cli.service import Service, on_service
from poolshift.client import programs

OwnSession = Annotated[
    str | None,
    typer.Option("--session", metavar="ID", help="The session that the program belongs to; without it a global one."),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the service's log.")]


@on_service
def delete_program(
    service: Service,
    program_id: ProgramId,
    *,
    session: OwnSession = None,
    pool_version: OwnDefinition = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Deletes a program, or takes V2's own definition back; running calls continue. A terminal is asked first."""
    of_v2 = pool_version is not None
    if not yes and sys.stdin.isatty():
        what = f"V2's own definition of {program_id}" if of_v2 else f"the program {program_id}"
        where = "" if session is None else f" of the session {session}"
        typer.confirm(f"Delete {what}{where}?", abort=True, err=True)
    service.ask(programs.delete(program_id, session_id=session, pool_version=pool_version))
    if as_json:
        print_json({"deleted": program_id})
        return
    words = ["poolshift", "programs", "restore", program_id, *(["--session", session] if session else [])]
    print_fields({"deleted": program_id} if of_v2 else {"deleted": program_id, "undo": " ".join(words)})


@on_service
def restore_program(
    service: Service,
    program_id: ProgramId,
    *,
    revision: Annotated[
        int | None, typer.Option(min=1, help="The revision whose definition is to be in force again.")
    ] = None,
    session: OwnSession = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Brings a deleted program back, or gives a program the definition of a former revision."""
    restored = programs.restore(program_id, revision=revision, session_id=session, reason=reason)
    show(service.ask(restored), as_json=as_json)


@on_service
def promote_program(
    service: Service,
    program_id: ProgramId,
    *,
    session: OwnSession = None,
    force: Annotated[
        bool, typer.Option("--force", help="Although V2 does not get all calls yet, or a plan is under way.")
    ] = False,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Makes V2's own definition of a program everyone's; `demote` undoes it (--force needs a --reason)."""
    promoted = programs.promote(program_id, session_id=session, force=force, reason=reason)
    show(service.ask(promoted), as_json=as_json)


@on_service
def demote_program(
    service: Service,
    program_id: ProgramId,
    *,
    session: OwnSession = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Undoes a promotion: V1 has its former definition again, and V2 alone the promoted one, on trial."""
    show(service.ask(programs.demote(program_id, session_id=session, reason=reason)), as_json=as_json)
