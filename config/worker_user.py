"""The user that workers change to (`WORKER_USER`), and the files with secrets that this user must not read."""

import os
import pwd
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerUser:
    """A user other than the service's own."""

    uid: int
    gid: int


def find_user(name: str) -> WorkerUser | None:
    """The user of this name or number; None if that is the service's own.

    Raises:
        ValueError: there is no such user, or the service may not change to it.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        user = WorkerUser(entry.pw_uid, entry.pw_gid)
    except (KeyError, OverflowError):
        if not name.isdecimal() or int(name) >= 2**31:
            raise ValueError("there is no such user on this machine") from None
        user = WorkerUser(int(name), int(name))
    if user.uid == os.geteuid():
        return None
    if user.uid == 0:
        raise ValueError("root is no user for other people's functions")
    if os.geteuid() != 0:
        raise ValueError("only a service that runs as root can change the user of its workers")
    return user


def first_readable(user: WorkerUser, files: Iterable[Path]) -> Path | None:
    """The first of `files` that `user` can read, if any."""
    with _acting_as(user):
        return next((path for path in files if os.access(path, os.R_OK, effective_ids=True)), None)


@contextmanager
def _acting_as(user: WorkerUser) -> Iterator[None]:
    """The rights of `user` in the block; the process has one thread, at its start."""
    gid, groups = os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
