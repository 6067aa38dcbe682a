"""Quotas: how much of each thing the service, a session or an owner may have."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from routing.errors import QuotaExceeded

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """The limits. Their names in `QuotaExceeded` are those of the settings."""

    programs: int = 100_000
    programs_per_session: int = 1_000
    definition_bytes: int = GIB
    definition_bytes_per_session: int = 64 * 1024**2
    sessions: int = 100_000
    sessions_per_owner: int = 50_000
    jobs_per_session: int = 500
    jobs_per_owner: int = 750
    keys_per_owner: int = 100_000
    key_bytes_per_owner: int = 256 * 1024**2


DEFAULT_QUOTAS: Final = Quotas()


class ProgramUsage:
    """Counts the programs and the bytes of their definitions, in all and by session."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._programs: Counter[str | None] = Counter()
        self._bytes: Counter[str | None] = Counter()
        self._all_programs = 0
        self._all_bytes = 0

    def check(self, session_id: str | None, size: int, programs: int = 1) -> None:
        """Tells if so many more programs, whose definitions have `size` more bytes, fit.

        Raises:
            QuotaExceeded: they do not.
        """
        quotas, session = self._quotas, f"session {session_id!r}"
        if session_id is not None:
            limit, used = quotas.programs_per_session, self._programs[session_id] + programs
            _check("QUOTA_PROGRAMS_PER_SESSION", limit, used, f"programs of {session}")
            limit, used = quotas.definition_bytes_per_session, self._bytes[session_id] + size
            _check("QUOTA_DEFINITION_BYTES_PER_SESSION", limit, used, f"bytes of definitions of {session}")
        _check("QUOTA_PROGRAMS", quotas.programs, self._all_programs + programs, "programs")
        _check("QUOTA_DEFINITION_BYTES", quotas.definition_bytes, self._all_bytes + size, "bytes of definitions")

    def add(self, session_id: str | None, size: int, programs: int = 1) -> None:
        """Counts so many programs more."""
        self._programs[session_id] += programs
        self._bytes[session_id] += size
        self._all_programs += programs
        self._all_bytes += size

    def remove(self, session_id: str | None, size: int, programs: int = 1) -> None:
        """Counts so many programs less."""
        self.add(session_id, -size, -programs)
        if not self._programs[session_id] and not self._bytes[session_id]:
            del self._programs[session_id], self._bytes[session_id]


def check_sessions(quotas: Quotas, in_all: int, of_owner: int) -> None:
    """Tells if one more session fits; `of_owner` is what its owner has.

    Raises:
        QuotaExceeded: it does not.
    """
    _check("QUOTA_SESSIONS", quotas.sessions, in_all + 1, "sessions")
    _check("QUOTA_SESSIONS_PER_OWNER", quotas.sessions_per_owner, of_owner + 1, "sessions of one owner")


def check_jobs(quotas: Quotas, of_session: int, of_owner: int) -> None:
    """Tells if one more job fits; the arguments are those that are queued or running.

    Raises:
        QuotaExceeded: it does not.
    """
    _check("QUOTA_JOBS_PER_SESSION", quotas.jobs_per_session, of_session + 1, "queued or running jobs of one session")
    _check("QUOTA_JOBS_PER_OWNER", quotas.jobs_per_owner, of_owner + 1, "queued or running jobs of one owner")


def check_keys(quotas: Quotas, keys: int, size: int) -> None:
    """Tells if one more idempotency key fits; the arguments are the keys of its owner and the bytes of their answers.

    Raises:
        QuotaExceeded: it does not.
    """
    _check("QUOTA_IDEMPOTENCY_KEYS_PER_OWNER", quotas.keys_per_owner, keys + 1, "idempotency keys of one owner")
    what = "bytes of answers to calls with idempotency keys of one owner"
    _check("QUOTA_IDEMPOTENCY_BYTES_PER_OWNER", quotas.key_bytes_per_owner, size, what)


def _check(name: str, limit: int, wanted: int, what: str) -> None:
    if wanted > limit:
        raise QuotaExceeded(name, limit, what)
