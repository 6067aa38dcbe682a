"""Runs a command in a network of its own, with its loopback interface up.

    unshare --net --pid --fork --mount-proc --kill-child python -m tests.ray.network COMMAND [ARGUMENT ...]

Ray listens on every interface: in such a network nobody else reaches it, and nothing outlives it.
"""

import fcntl
import os
import socket
import struct
import sys
from typing import Final

ALONE: Final = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1


def main() -> None:
    """Brings the interface up and becomes the command."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
