"""The LM settings of sessions, of versions and of everyone, in memory; the store keeps those that the API has set."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

import msgspec

from pools.errors import LMError, LMNotConfigured
from poolshift.worker.lm import LOCAL, NONE, LMSettings
from routing.versions import Version

LocalLM = Callable[[], LMSettings | None]
"""Returns the endpoint of the service's own model; None while there is no such model to reach."""


class Holder(NamedTuple):
    """A session or a version that has an LM of its own; everyone if both are None."""

    session_id: str | None = None
    version: Version | None = None


EVERYONE = Holder()


class NewLM(NamedTuple):
    """An LM that is to be stored; see `StoredLM` for `overrides`."""

    holder: Holder
    settings: LMSettings
    overrides: str | None


@dataclass(frozen=True, slots=True)
class StoredLM:
    """An LM that the API has set.

    `overrides` names the environment's LM when everyone's or a version's was set: once the environment changes, its LM
    counts again.
    """

    holder: Holder
    settings: LMSettings
    overrides: str | None
    updated_by: str
    updated_at: datetime


class LMInForce(NamedTuple):
    """The LM of a call, and where its settings come from; `stored` is None if they are the environment's."""

    settings: LMSettings
    stored: StoredLM | None
    set_for: Literal["session", "version", "everyone"]


class LMStore(Protocol):
    """Keeps LM settings. Every method raises StoreUnavailable if the store does not answer."""

    async def load(self) -> Sequence[StoredLM]:
        """Reads all settings."""
        ...

    async def find(self, holder: Holder) -> StoredLM | None:
        """Reads the settings of one holder."""
        ...

    async def put(self, holder: Holder, settings: LMSettings, overrides: str | None, by: str) -> StoredLM:
        """Keeps `settings` in place of the earlier ones. Those of a version and of everyone become the former ones."""
        ...

    async def accept(self, holder: Holder, overrides: str | None) -> None:
        """Has the settings of one holder count beside another LM of the environment's: see `StoredLM`."""
        ...

    async def remove(self, holder: Holder, overrides: str | None, by: str) -> None:
        """Forgets the settings of one holder. Those of a version and of everyone become the former ones."""
        ...

    async def restore(self, holder: Holder, overrides: str | None, by: str) -> StoredLM | None:
        """Exchanges the settings of a version or of everyone for the former ones.

        Returns them; None if they are the environment's. Raises FormerLMMissing.
        """
        ...


class LMs:
    """The LM settings in force. Each call takes its LM along, so a change is in force for the next call.

    A session's own LM counts before its version's, and that before everyone's.
    """

    def __init__(
        self,
        store: LMStore,
        configured: LMSettings,
        local: LocalLM | None,
        of_versions: Mapping[Version, LMSettings] | None = None,
        load_prices: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Takes the environment's LM as `configured`, and those that it has for one version alone.

        `local` is None if the service runs no model itself. `load_prices` is awaited before a model is in force.
        """
        self._store = store
        self._configured = configured
        self._configured_of = dict(of_versions or {})
        self._local = local
        self._load_prices = load_prices
        self._everyones: StoredLM | None = None
        self._of_versions: dict[Version, StoredLM] = {}
        self._of_sessions: dict[str, StoredLM] = {}

    @property
    def has_local(self) -> bool:
        """Tells whether the service runs a model itself."""
        return self._local is not None

    @property
    def differ(self) -> bool:
        """True if a version has an LM of its own."""
        return bool(self._of_versions or self._configured_of)

    @property
    def is_on_trial(self) -> bool:
        """True if V2 has another LM than V1: then its failures are those of what is being changed."""
        if not self.differ:
            return False
        return self.shown(None, Version.V1).settings != self.shown(None, Version.V2).settings

    def inherited(self) -> NewLM | None:
        """Returns the LM that V1 gets from V2 at a rotation; None if it is the one that V1 has."""
        if not self.is_on_trial:
            return None
        v1 = Holder(version=Version.V1)
        return NewLM(v1, self.shown(None, Version.V2).settings, self._overridden_by(v1))

    def take(self, stored: StoredLM) -> None:
        """Takes up an LM that has just been stored."""
        self._remember(stored)

    def drop(self, holder: Holder) -> None:
        """Forgets an LM that has just been removed from the store."""
        self._forget(holder)

    async def overridden(self, holder: Holder) -> StoredLM | None:
        """Returns a stored LM that no longer counts, since the environment names another one than when it was stored.

        Raises StoreUnavailable.
        """
        stored = await self._store.find(holder)
        if stored is None or stored.overrides == self._overridden_by(holder):
            return None
        now = self.shown(holder.session_id, holder.version).settings
        is_same = all(getattr(stored.settings, one) == getattr(now, one) for one in ("model", "api_base", "api_key"))
        return None if is_same else stored

    async def keep(self, stored: StoredLM) -> None:
        """Has such an LM count again. Raises StoreUnavailable."""
        overrides = self._overridden_by(stored.holder)
        await self._store.accept(stored.holder, overrides)
        self._remember(replace(stored, overrides=overrides))

    def may_keep(self, version: Version) -> bool:
        """Tells if a version's LM may be stored for the other one: a key of the environment must not be."""
        settings, stored, _ = self.shown(None, version)
        return not self.is_on_trial or stored is not None or settings.api_key is None

    async def load_prices(self) -> None:
        """Loads the prices of models, if they are not there yet: before a model is in force, or tried."""
        if self._load_prices is not None:
            await self._load_prices()

    async def load(self) -> None:
        """Loads all stored settings into memory."""
        stored = await self._store.load()
        every = [self._configured, *self._configured_of.values(), *(one.settings for one in stored)]
        if any(one.model not in (NONE, LOCAL) for one in every):
            await self.load_prices()
            stored = await self._store.load()  # it may have changed meanwhile
        self._everyones = None
        self._of_versions.clear()
        self._of_sessions.clear()
        for one in stored:
            self._remember(one)

    async def refresh(self, holder: Holder) -> None:
        """Reads the settings of one holder again: another replica has changed them."""
        await self.load_prices()
        stored = await self._store.find(holder)
        if stored is not None:
            self._remember(stored)
        else:
            self._forget(holder)

    def of_call(self, session_id: str | None, version: Version) -> LMSettings:
        """Returns the LM for a call of this session that goes to this version.

        Raises:
            LMNotConfigured: nobody has set an LM, or it was set to `none`.
            LMError: the service's own model is not up now.
        """
        return self.endpoint_of(self.shown(session_id, version).settings)

    def shown(self, session_id: str | None, version: Version | None = None) -> LMInForce:
        """Returns the settings in force for a session, for a version, or for everyone."""
        own = self._of_sessions.get(session_id) if session_id is not None else None
        if own is not None:
            return LMInForce(own.settings, own, "session")
        if version is not None:
            if (stored := self._of_versions.get(version)) is not None:
                return LMInForce(stored.settings, stored, "version")
            if (configured := self._configured_of.get(version)) is not None:
                return LMInForce(configured, None, "version")
        everyones = self._everyones
        return LMInForce(self._configured if everyones is None else everyones.settings, everyones, "everyone")

    async def put(self, holder: Holder, settings: LMSettings, by: str) -> None:
        """Sets the LM of a session, of a version or of everyone. Raises StoreUnavailable."""
        self._remember(await self._store.put(holder, settings, self._overridden_by(holder), by))

    async def remove(self, holder: Holder, by: str) -> None:
        """Removes the LM of a session or a version, which has everyone's from then on, or everyone's.

        Without it everyone has the environment's. Raises StoreUnavailable.
        """
        await self._store.remove(holder, self._overridden_by(holder), by)
        self._forget(holder)

    async def restore(self, holder: Holder, by: str) -> None:
        """Puts back the LM that a version or everyone had before the last change; the present one is kept then.

        Raises FormerLMMissing, StoreUnavailable.
        """
        await self.load_prices()
        stored = await self._store.restore(holder, self._overridden_by(holder), by)
        if stored is None:
            self._forget(holder)
        else:
            self._remember(stored)

    def endpoint_of(self, settings: LMSettings) -> LMSettings:
        """Returns the settings by which a worker reaches an LM.

        Raises:
            LMNotConfigured: it is none.
            LMError: it is the service's own model, which is not up now.
        """
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

    def forget_session(self, session_id: str) -> None:
        """Forgets the settings of a session that has ended."""
        self._forget(Holder(session_id))

    def _forget(self, holder: Holder) -> None:
        if holder.session_id is not None:
            self._of_sessions.pop(holder.session_id, None)
        elif holder.version is not None:
            self._of_versions.pop(holder.version, None)
        else:
            self._everyones = None

    def _remember(self, stored: StoredLM) -> None:
        holder = stored.holder
        if holder.session_id is not None:
            self._of_sessions[holder.session_id] = stored
        elif stored.overrides != self._overridden_by(holder):
            self._forget(holder)
        elif holder.version is not None:
            self._of_versions[holder.version] = stored
        else:
            self._everyones = stored

    def _overridden_by(self, holder: Holder) -> str | None:
        """Names the environment's LM for `holder`; a session has none there."""
        if holder.session_id is not None:
            return None
        configured = self._configured if holder.version is None else self._configured_of.get(holder.version)
        return hashlib.sha256(msgspec.json.encode(configured)).hexdigest()
