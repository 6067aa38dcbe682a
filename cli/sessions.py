"""`poolshift sessions`: lists, shows and ends sessions."""

from typing import Annotated, Any

import typer

from cli.output import AsJson, print_fields, print_json, print_rows, when
from cli.service import Service, on_service
from poolshift.client import sessions

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Lists, shows and ends sessions.")

SessionId = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
@on_service
def list_sessions(
    service: Service,
    *,
    limit: Annotated[int, typer.Option(min=1, help="Sessions to list at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Lists sessions by id."""
    found = service.items(sessions.listed(limit=limit))
    if as_json:
        print_json(found)
        return
    print_rows(
        ("ID", "POOL", "EXECUTIONS", "PROGRAMS", "LAST SEEN", "EXPIRES"),
        [
            (
                one["id"],
                one["pool_version"],
                one["execution_count"],
                one["program_count"],
                when(one["last_seen_at"]),
                when(one["expires_at"]),
            )
            for one in found
        ],
    )


@app.command("show")
@on_service
def show_session(service: Service, session_id: SessionId, *, as_json: AsJson = False) -> None:
    """Shows a session and what it holds."""
    _show(service.ask(sessions.show(session_id)), as_json=as_json)


@app.command("delete")
@on_service
def end_session(service: Service, session_id: SessionId, *, as_json: AsJson = False) -> None:
    """Ends a session, and frees its programs, its language model and its jobs."""
    service.ask(sessions.end(session_id))
    if as_json:
        print_json({"deleted": session_id})
    else:
        print_fields({"deleted": session_id})


def _show(session: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(session)
        return
    print_fields(
        {
            "id": session["id"],
            "pool": session["pool_version"],
            "executions": session["execution_count"],
            "programs": session["program_count"],
            "created": when(session["created_at"]),
            "last seen": when(session["last_seen_at"]),
            "expires": when(session["expires_at"]),
        }
    )
