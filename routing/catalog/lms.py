"""The LM settings of sessions and of everyone, in memory; the store keeps those that the API has set."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import msgspec

from pools.errors import LMError, LMNotConfigured
from poolshift.worker.lm import LOCAL, NONE, LMSettings

LocalLM = Callable[[], LMSettings | None]
"""Returns the endpoint of the service's own model; None while there is no such model to reach."""


@dataclass(frozen=True, slots=True)
class StoredLM:
    """An LM that the API has set: a session's, or everyone's if `session_id` is None.

    `overrides` names the environment's LM when everyone's was set: once the environment changes, its LM counts again.
    """

    session_id: str | None
    settings: LMSettings
    overrides: str | None
    updated_by: str
    updated_at: datetime


class LMStore(Protocol):
    """Keeps LM settings. Every method raises StoreUnavailable if the store does not answer."""

    async def load(self) -> Sequence[StoredLM]:
        """Reads all settings."""
        ...

    async def find(self, session_id: str | None) -> StoredLM | None:
        """Reads a session's settings, or everyone's if `session_id` is None."""
        ...

    async def put(self, session_id: str | None, settings: LMSettings, overrides: str | None, by: str) -> StoredLM:
        """Keeps `settings` in place of the earlier ones."""
        ...

    async def remove(self, session_id: str) -> None:
        """Forgets a session's settings."""
        ...


class LMs:
    """The LM settings in force. Each call takes its LM along, so a change is in force for the next call."""

    def __init__(self, store: LMStore, configured: LMSettings, local: LocalLM | None) -> None:
        """Takes the environment's LM as `configured`; `local` is None if the service runs no model itself."""
        self._store = store
        self._configured = configured
        self._overrides = hashlib.sha256(msgspec.json.encode(configured)).hexdigest()
        self._local = local
        self._everyones: StoredLM | None = None
        self._of_sessions: dict[str, StoredLM] = {}

    @property
    def has_local(self) -> bool:
        """Tells whether the service runs a model itself."""
        return self._local is not None

    async def load(self) -> None:
        """Loads all stored settings into memory."""
        stored = await self._store.load()
        self._everyones = None
        self._of_sessions.clear()
        for one in stored:
            self._remember(one)

    async def refresh(self, session_id: str | None) -> None:
        """Reads a session's settings, or everyone's, again: another replica has changed them."""
        stored = await self._store.find(session_id)
        if stored is not None:
            self._remember(stored)
        elif session_id is not None:
            self.forget_session(session_id)

    def of_call(self, session_id: str | None) -> LMSettings:
        """Returns the LM for a call of this session.

        Raises:
            LMNotConfigured: nobody has set an LM, or it was set to `none`.
            LMError: the service's own model is not up now.
        """
        settings = self.shown(session_id)[0]
        if settings.model == NONE or (settings.model == LOCAL and self._local is None):
            raise LMNotConfigured("neither the session nor the service has an LM", started=False)
        if settings.model != LOCAL:
            return settings
        assert self._local is not None
        endpoint = self._local()
        if endpoint is None:
            raise LMError("the local model is starting", started=False, retry_after_s=1.0)
        return msgspec.structs.replace(
            endpoint,
            temperature=endpoint.temperature if settings.temperature is None else settings.temperature,
            max_tokens=endpoint.max_tokens if settings.max_tokens is None else settings.max_tokens,
        )

    def shown(self, session_id: str | None) -> tuple[LMSettings, StoredLM | None]:
        """Returns the settings in force for a session, or for everyone; None stands for the environment's."""
        stored = self._of_sessions.get(session_id) if session_id is not None else None
        stored = stored or self._everyones
        return (stored.settings, stored) if stored is not None else (self._configured, None)

    async def put(self, session_id: str | None, settings: LMSettings, by: str) -> None:
        """Sets a session's settings, or everyone's. Raises StoreUnavailable."""
        self._remember(await self._store.put(session_id, settings, self._overrides if session_id is None else None, by))

    async def remove(self, session_id: str) -> None:
        """Removes a session's settings, which has everyone's from then on. Raises StoreUnavailable."""
        await self._store.remove(session_id)
        self.forget_session(session_id)

    def forget_session(self, session_id: str) -> None:
        """Forgets the settings of a session that has ended."""
        self._of_sessions.pop(session_id, None)

    def _remember(self, stored: StoredLM) -> None:
        if stored.session_id is not None:
            self._of_sessions[stored.session_id] = stored
        else:
            self._everyones = stored if stored.overrides == self._overrides else None
