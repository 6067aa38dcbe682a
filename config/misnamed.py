"""Variables that look like a setting of a pool and are none: a pool with a misnamed setting is like the other one."""

import os
import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from dotenv import dotenv_values

from config.settings import Settings

_OF_A_POOL = re.compile(r"V[12]_[A-Z0-9_]+")
_OF_KUBERNETES = re.compile(r"V[12]_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+)")
"""Variables that Kubernetes sets for a Service of that name."""


def misnamed(names: Iterable[str], settings: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Finds the names that look like a setting of a pool, each with the settings that it may be meant for.

    `settings` are the settings that there are, in capitals.
    """
    return {
        name: tuple(get_close_matches(name, settings, n=3))
        for name in sorted(names)
        if name not in settings and _OF_A_POOL.fullmatch(name) and not _OF_KUBERNETES.fullmatch(name)
    }


def misnamed_settings() -> dict[str, tuple[str, ...]]:
    """Finds such names in the environment and in the file `.env`."""
    return misnamed({*os.environ, *dotenv_values(".env")}, {name.upper() for name in Settings.model_fields})
