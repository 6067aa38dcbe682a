"""`/lm` and `/sessions/{id}/lm`: the LM that DSPy programs run on, also of one version. A key is never shown again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query
from pydantic import Field

from app.access.auth import Admin, Executor, Reader
from app.api.base import In, Matching, Out, Router
from app.api.sessions import SessionId
from app.openapi.document import raises
from app.problems import Problem
from app.services import Running, Services
from config.lm import ApiBase, ApiKey
from poolshift.worker.lm import LOCAL, NONE, LMSettings
from routing.catalog.lms import Holder, LMInForce
from routing.lm_trial import try_lm
from routing.versions import Version

router = Router(tags=["lm"])


ModelName = Annotated[
    str,
    Field(min_length=1, max_length=256, examples=["openai/gpt-5-mini"]),
    Matching(r"^[^\s\x00-\x1f]+$", "the name of a model has neither blanks nor control characters"),
]


class LMBody(In):
    """An LM. `local` is the small model that the service runs if `LM_MODEL=local`; `none` means no LM."""

    model: ModelName
    api_base: ApiBase | None = Field(None, max_length=2048, examples=["http://127.0.0.1:11434/v1"])
    api_key: ApiKey | None = Field(None, min_length=1, max_length=8192)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)

    def settings(self) -> LMSettings:
        """Converts the body for the pools."""
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        return LMSettings(self.model, self.api_base, key, self.temperature, self.max_tokens)


class LMView(Out):
    """An LM that is in force."""

    model: str = Field(description="`none` if there is no LM")
    api_base: str | None
    has_api_key: bool
    temperature: float | None
    max_tokens: int | None
    set_for: Literal["session", "version", "everyone"]
    updated_by: str | None = Field(description="Null if it comes from the service's environment")
    updated_at: datetime | None


TRIAL_PROBLEMS = (
    "lm_error",
    "load_failed",
    "load_timeout",
    "worker_crashed",
    "execution_timeout",
    "pool_overloaded",
    "checkout_timeout",
    "pool_closed",
)
"""Codes of a trial that does not succeed; the LM is as it was then."""
CheckQuery = Annotated[
    bool, Query(description="Tries the LM first, by one small completion on a worker; refused with the LM's error")
]
VersionQuery = Annotated[Version | None, Query(description="The version whose LM it is; without it everyone's")]


def lm_view(lm: LMInForce) -> LMView:
    """Shows an LM without its key."""
    settings, stored, set_for = lm
    return LMView(
        model=settings.model,
        api_base=settings.api_base,
        has_api_key=settings.api_key is not None,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        set_for=set_for,
        updated_by=stored.updated_by if stored is not None else None,
        updated_at=stored.updated_at if stored is not None else None,
    )


@router.get("/lm", openapi_extra=raises("store_unavailable"))
async def show_lm(services: Running, _: Reader, pool_version: VersionQuery = None) -> LMView:
    """Shows the LM of sessions that have none of their own: everyone's, or the one of a version."""
    return lm_view(services.lms.shown(None, pool_version))


@router.put("/lm", openapi_extra=raises(*TRIAL_PROBLEMS, "store_unavailable"))
async def set_lm(
    body: LMBody, services: Running, admin: Admin, *, pool_version: VersionQuery = None, check: CheckQuery = False
) -> LMView:
    """Sets everyone's LM, or the one of a version alone, from the next call on. `POST /lm/restore` takes it back."""
    holder = Holder(version=pool_version)
    await _check(holder, body, services, is_tried=check)
    async with services.ramp.changing(lambda: f"{admin.name} set {_whose(pool_version)} to {body.model}"):
        await services.lms.put(holder, body.settings(), admin.name)
    return lm_view(services.lms.shown(*holder))


@router.delete("/lm", status_code=204, openapi_extra=raises("store_unavailable"))
async def remove_lm(services: Running, admin: Admin, pool_version: VersionQuery = None) -> None:
    """Gives everyone the LM of the service's environment again, or a version the LM that it has without its own."""
    async with _new_evidence(pool_version, services, f"{admin.name} took back {_whose(pool_version)}"):
        await services.lms.remove(Holder(version=pool_version), admin.name)


@router.post("/lm/restore", openapi_extra=raises("not_found", "store_unavailable"))
async def restore_lm(services: Running, admin: Admin, pool_version: VersionQuery = None) -> LMView:
    """Puts back the LM, with its key, that everyone or a version had before the last change.

    The present one is kept in its place, so that a second restore puts that back.
    """
    async with _new_evidence(pool_version, services, f"{admin.name} restored {_whose(pool_version)}"):
        await services.lms.restore(Holder(version=pool_version), admin.name)
    return lm_view(services.lms.shown(None, pool_version))


@asynccontextmanager
async def _new_evidence(version: Version | None, services: Services, told: str) -> AsyncIterator[None]:
    """Begins the evidence of a ramp again if a change gives calls another LM, which may be another key alone."""
    before = services.lms.shown(None, version).settings
    async with services.ramp.changing(lambda: told) as cause:
        yield
        if services.lms.shown(None, version).settings == before:
            cause.withdraw()


def _whose(version: Version | None) -> str:
    return "everyone's LM" if version is None else f"the LM of {version}"


@router.get("/sessions/{session_id}/lm", openapi_extra=raises("store_unavailable"))
async def show_session_lm(session_id: SessionId, services: Running, reader: Reader) -> LMView:
    """Shows a session's LM: its own, or else everyone's."""
    is_visible = await services.sessions.sees(session_id, reader.reader)
    return lm_view(services.lms.shown(session_id if is_visible else None))


@router.put(
    "/sessions/{session_id}/lm",
    openapi_extra=raises("session_not_found", "quota_exceeded", *TRIAL_PROBLEMS, "store_unavailable"),
)
async def set_session_lm(
    session_id: SessionId, body: LMBody, services: Running, executor: Executor, *, check: CheckQuery = False
) -> LMView:
    """Sets a session's LM, from its next call on; it is forgotten when the session ends."""
    await services.sessions.admit(session_id, executor.caller, may_begin_again=True)
    holder = Holder(session_id)
    await _check(holder, body, services, is_tried=check)
    # The session first: nothing would ever delete an LM whose session was never stored.
    await services.sessions.keep(session_id, executor.caller)
    await services.lms.put(holder, body.settings(), executor.name)
    await services.sessions.keep(session_id, executor.caller, has_lm=True)
    return lm_view(services.lms.shown(*holder))


@router.delete("/sessions/{session_id}/lm", status_code=204, openapi_extra=raises("store_unavailable"))
async def remove_session_lm(session_id: SessionId, services: Running, executor: Executor) -> None:
    """Gives a session everyone's LM again."""
    if await services.sessions.sees(session_id, executor.caller):
        await services.lms.remove(Holder(session_id), executor.name)


async def _check(holder: Holder, body: LMBody, services: Services, *, is_tried: bool) -> None:
    """Checks an LM before it is set; `is_tried` asks for a completion. Raises Problem, and what a trial raises."""
    if body.model == LOCAL and not services.lms.has_local:
        raise Problem("invalid_request", "body.model: this service runs no model itself (LM_MODEL=local does)")
    if is_tried and body.model != NONE:
        version = holder.version or services.serving_version
        endpoint = services.lms.endpoint_of(body.settings())
        await try_lm(services.router, endpoint, version, services.deadlines.call_s)
