"""Keeps a program from reading the service's memory, environment and files, as far as the kernel has a means."""

import os

from config.settings import Settings
from config.worker_environment import is_withheld
from poolshift.worker import linux

_READ_ONCE = frozenset({"DATABASE_URL", "LM_API_KEY"})
"""The settings that are in `Settings` from the start on, and secret; the clients of the database and of the collector
read theirs again."""


def protect(settings: Settings) -> None:
    """Hides this process from others of its user, and takes secrets out of its environment.

    `/proc/PID/environ` shows what a process was started with, whatever it deletes later. So the values are overwritten
    there, and those that are read again are set again.
    """
    if settings.worker_user_ids is not None:
        os.umask(0o077)  # the database is made with this
    passed_on = {name.strip() for name in settings.worker_env.split(",")}
    withheld = {name: value for name, value in os.environ.items() if is_withheld(name, value)}
    for name, value in withheld.items():
        if name in _READ_ONCE and name not in passed_on:
            del os.environ[name]
        else:
            os.environ[name] = value
    linux.overwrite_environment(withheld)
    linux.set_dumpable(False)  # from now on not even this process can open its own environment
