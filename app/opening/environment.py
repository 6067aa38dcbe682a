"""The environment of all workers, from that of the service."""

import os

import structlog

from config.settings import Settings
from config.worker_environment import secrets_of_others, with_hash_seed, worker_environment

_log = structlog.stdlib.get_logger("poolshift")


def open_environment(settings: Settings) -> dict[str, str]:
    """Makes the environment of workers, and logs the names of what the operator may have meant for programs."""
    passed_on = settings.worker_env.split(",")
    if withheld := secrets_of_others(os.environ, passed_on):
        _log.info("variables are kept from programs, unless WORKER_ENV names them", names=withheld)
    return with_hash_seed(worker_environment(os.environ, passed_on))
