"""Tells whether an interpreter was built with optimisation: figures of one that was not say little of production.

    python bench/optimised.py

The exit status is 0 if it was, and if Poolshift can be compiled for it.
"""

import sys
import sysconfig
from pathlib import Path

OLDEST = (3, 11)


def is_optimised() -> bool:
    """True if this Python was built with profile-guided optimisation.

    The configuration of such a build has `--enable-optimizations`. Debian and Ubuntu call the optimising targets of the
    build by themselves (debian/rules of their packages), so that their Python's configuration does not tell.
    """
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    is_debian = sys.base_prefix == "/usr" and Path("/etc/debian_version").exists()
    return "--enable-optimizations" in arguments or is_debian


def has_headers() -> bool:
    """True if Python's headers are installed, which a compiled wheel takes."""
    return Path(sysconfig.get_path("include"), "Python.h").exists()


if __name__ == "__main__":
    sys.exit(0 if sys.version_info >= OLDEST and is_optimised() and has_headers() else 1)
