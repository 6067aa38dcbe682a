#!/opt/poolshift/bin/python -I
"""Installs what programs import, while an image is built on Poolshift's.

    RUN install-requirements [FILE]

The packages of FILE (requirements.txt) go into /packages, which the workers' path begins with. They are none of the
service's own, which imports nothing from there. When it is done, nobody can write to /packages.
"""

import stat
import subprocess
import sys
from pathlib import Path

PIP = Path("/opt/poolshift/share/installer/pip")
PACKAGES = Path("/packages")
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def main() -> int:
    """Returns pip's exit code."""
    requirements = sys.argv[1] if len(sys.argv) > 1 else "requirements.txt"
    PACKAGES.chmod(0o755)
    try:
        return subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-I", PIP, "install", "--disable-pip-version-check", "--no-cache-dir"),
                *("--root-user-action", "ignore", "--target", PACKAGES, "--upgrade", "--requirement", requirements),
            ],
            check=False,
        ).returncode
    finally:
        for path in (PACKAGES, *PACKAGES.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~_WRITABLE)


if __name__ == "__main__":
    sys.exit(main())
