"""A job as the answer to a call in the background shows it, and each call about jobs (`app/api/executions.py`)."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from routing.catalog.jobs import Job, JobStatus
from routing.versions import Version


class JobView(BaseModel):
    """A job."""

    model_config = ConfigDict(frozen=True)

    execution_id: str
    program_id: str
    session_id: str | None
    status: JobStatus
    pool_version: Version | None = Field(description="The version that runs it, or whose queue it is in")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


def job_view(job: Job) -> JobView:
    """Shows a job without its result."""
    return JobView(**job_members(job))


def job_members(job: Job) -> dict[str, Any]:
    """Returns the members of `JobView`."""
    return {
        "execution_id": job.id,
        "program_id": job.program_id,
        "session_id": job.session_id,
        "status": job.status,
        "pool_version": job.pool_version,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
    }
