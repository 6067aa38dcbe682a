"""`poolshift programs delete`, `deletions`, `restore`, `promote` and `demote`: what removes, and the ways back."""

import json
import shlex
import sys
from typing import Annotated

import typer

from cli.errors import CommandFailed
from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.programs.run import OwnDefinition, ProgramId
from cli.programs.view import show
from cli.questions import confirm
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
        confirm(f"Delete {what}{where}?", "nothing was deleted")
    service.ask(programs.delete(program_id, session_id=session, pool_version=pool_version))
    if as_json:
        print_json({"deleted": program_id})
        return
    undo = _undo_of_v2(program_id, session) if of_v2 else _undo(service, program_id, session)
    print_fields({"deleted": program_id, "undo": undo})


def _undo(service: Service, program_id: str, session: str | None) -> str:
    """The command that brings a deleted program back, by the number of its deletion."""
    try:
        found = service.items(programs.deletions(program_id, session_id=session, limit=1))
    except CommandFailed:  # the program is deleted all the same
        return _command("restore", program_id, session)
    if not found:
        return "none: PROGRAM_GRACE_S=0 makes each deletion final"
    return _command("restore", program_id, session, "--deletion", str(found[0]["deletion"]))


def _undo_of_v2(program_id: str, session: str | None) -> str:
    """The commands that give V2 the definition again which was taken back."""
    newest = _command("revisions", program_id, session, "--pool-version", "v2", "--limit", "1", "--json")
    as_program = shlex.quote(f".[0].definition + {json.dumps({'id': program_id})}")
    where = [] if session is None else ["--session", session]
    back = shlex.join(["poolshift", "programs", "apply", "-", *where, "--pool-version", "v2"])
    return f"{newest} | jq {as_program} | {back}"


def _command(verb: str, program_id: str, session: str | None, *options: str) -> str:
    where = [] if session is None else ["--session", session]
    return shlex.join(["poolshift", "programs", verb, program_id, *where, *options])


@on_service
def list_deletions(
    service: Service,
    program_id: ProgramId,
    *,
    session: OwnSession = None,
    limit: Annotated[int, typer.Option(min=1, help="Deletions to list at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Lists the deletions of programs of this id that the key may restore, the newest first."""
    found = service.items(programs.deletions(program_id, session_id=session, limit=limit))
    if as_json:
        print_json(found)
        return
    print_rows(
        ("DELETION", "REVISION", "OWNER", "WHEN", "WHO", "UNTIL"),
        [
            (
                one["deletion"],
                one["revision"],
                one["owner"],
                when(one["deleted_at"]),
                one["deleted_by"],
                when(one["until"]),
            )
            for one in found
        ],
    )


@on_service
def restore_program(
    service: Service,
    program_id: ProgramId,
    *,
    revision: Annotated[
        int | None, typer.Option(min=1, help="The revision whose definition is to be in force again.")
    ] = None,
    deletion: Annotated[
        int | None, typer.Option(min=1, help="The deletion to undo, of those that `deletions` lists.")
    ] = None,
    session: OwnSession = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Brings a deleted program back, or gives a program the definition of a former revision."""
    restored = programs.restore(program_id, revision=revision, deletion=deletion, session_id=session, reason=reason)
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
    if not as_json:
        print_fields({"undo": _command("demote", program_id, session)})


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
