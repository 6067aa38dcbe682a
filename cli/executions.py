"""`poolshift executions`: lists, shows, awaits and cancels jobs, which run in the background."""

from typing import Annotated, Any

import typer

from cli.output import AsJson, print_fields, print_json, print_rows, value_text, when
from cli.programs.run import show_events, show_execution
from cli.service import Service, on_service
from poolshift.client import executions

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Lists, shows, awaits and cancels jobs.")

ExecutionId = Annotated[str, typer.Argument(metavar="ID")]


@app.command("list")
@on_service
def list_jobs(
    service: Service,
    *,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="A session whose jobs to list; without it those of no session.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Jobs to list at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Lists jobs, the newest first."""
    jobs = service.items(executions.listed(session_id=session, limit=limit))
    if as_json:
        print_json(jobs)
        return
    print_rows(
        ("ID", "PROGRAM", "STATUS", "POOL", "CREATED", "ENDED"),
        [
            (
                job["execution_id"],
                job["program_id"],
                job["status"],
                job["pool_version"],
                when(job["created_at"]),
                when(job["ended_at"]),
            )
            for job in jobs
        ],
    )


@app.command("show")
@on_service
def show_job(service: Service, execution_id: ExecutionId, *, as_json: AsJson = False) -> None:
    """Shows a job, with its outputs or its error if it is over."""
    _show(service.ask(executions.show(execution_id)), as_json=as_json)


@app.command("wait")
@on_service
def wait_for_job(
    service: Service,
    execution_id: ExecutionId,
    *,
    within: Annotated[
        float | None, typer.Option(min=0, help="Seconds to wait; exit code 3 if the job is not over by then.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Waits for a job and shows its outputs; fails as the program did (exit code 1 also if it was cancelled)."""
    execution = service.wait(execution_id, within)
    if as_json:
        print_json(execution)
    else:
        show_execution(execution)


@app.command("events")
@on_service
def show_job_events(service: Service, execution_id: ExecutionId, *, as_json: AsJson = False) -> None:
    """Follows a job: its progress as it comes, then its outputs; goes on by itself if the connection breaks."""
    show_events(service.events(executions.events(execution_id)), as_json=as_json)


@app.command("cancel")
@on_service
def cancel_job(service: Service, execution_id: ExecutionId, *, as_json: AsJson = False) -> None:
    """Cancels a job and kills its program; one that is over stays as it is."""
    _show(service.ask(executions.cancel(execution_id)), as_json=as_json)


def _show(job: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    result, problem = job["result"], job["problem"]
    outputs = {} if result is None else {f"output {name}": value_text(one) for name, one in result["outputs"].items()}
    print_fields(
        {
            "id": job["execution_id"],
            "program": job["program_id"],
            "session": job["session_id"],
            "status": job["status"],
            "pool": job["pool_version"],
            "created": when(job["created_at"]),
            "started": when(job["started_at"]),
            "ended": when(job["ended_at"]),
            **outputs,
            **({} if problem is None else {"error": f"{problem['code']}: {problem['detail']}"}),
        }
    )
