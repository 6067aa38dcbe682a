"""Sessions and language models: `/sessions`, `/lm` and `/sessions/{id}/lm`."""

from datetime import datetime

import msgspec

from poolshift.client.calls import Call, Listing, Page, encoded, get, given, members, nothing, reader, segment


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session and what it holds."""

    id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    pool_version: str | None = None
    """The version that served the session last."""
    execution_count: int = 0
    program_count: int = 0


class LM(msgspec.Struct, frozen=True, kw_only=True):
    """A language model that is in force. Its key is never shown."""

    model: str
    """`none` if there is no language model."""
    api_base: str | None = None
    has_api_key: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    set_for: str = "everyone"
    """`session`, `version` or `everyone`."""
    updated_by: str | None = None
    updated_at: datetime | None = None


def listed(*, limit: int | None = None) -> Listing[Session]:
    """Lists sessions by id."""
    return Listing("/sessions", Page[Session], limit)


def show(session_id: str) -> Call[Session]:
    """Reads a session.

    Raises:
        SessionNotFound: it was never seen, has ended or is expired.
    """
    return get(f"/sessions/{segment(session_id)}", Session)


def end(session_id: str) -> Call[None]:
    """Ends a session and frees its programs, its language model and its jobs.

    Raises:
        SessionNotFound: it was never seen, has ended or is expired.
    """
    return Call("DELETE", f"/sessions/{segment(session_id)}", nothing, is_idempotent=True)


def show_lm(session_id: str | None = None, *, pool_version: str | None = None) -> Call[LM]:
    """Reads everyone's language model, or the one that is in force for a session or a version."""
    return get(_lm(session_id), LM, {"pool_version": pool_version})


def set_lm(
    model: str,
    *,
    session_id: str | None = None,
    pool_version: str | None = None,
    api_base: str | None = None,
    api_key: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    check: bool | None = None,
) -> Call[LM]:
    """Sets a session's language model, or a version's or everyone's (scope `admin`), from the next call on.

    What is left out is unset: no part of the former language model stays. With `check` the language model is tried
    first, by one small completion.

    Raises:
        LMError: with `check`: it failed, and the former one is still in force.
    """
    body = members(model=model, api_base=api_base, api_key=api_key, temperature=temperature, max_tokens=max_tokens)
    content, headers = encoded(body)
    params = given({"pool_version": pool_version, "check": check})
    return Call("PUT", _lm(session_id), reader(LM), params=params, headers=headers, content=content, is_idempotent=True)


def remove_lm(session_id: str | None = None, *, pool_version: str | None = None) -> Call[None]:
    """Gives a session, or a version, everyone's language model again; without either, everyone the environment's."""
    return Call("DELETE", _lm(session_id), nothing, params=given({"pool_version": pool_version}), is_idempotent=True)


def restore_lm(*, pool_version: str | None = None) -> Call[LM]:
    """Puts back the language model that everyone, or a version, had before the last change (scope `admin`).

    Raises:
        NotFound: no former one is kept.
    """
    return Call("POST", "/lm/restore", reader(LM), params=given({"pool_version": pool_version}))


def _lm(session_id: str | None) -> str:
    return "/lm" if session_id is None else f"/sessions/{segment(session_id)}/lm"
