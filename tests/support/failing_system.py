"""Makes a call of the system fail in the zygote, which preloads this: `FAILING` names the call and its error.

The call fails as long as the file that `FAILING_WHILE` names is there.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any


def _fail(owner: Any, name: str, number: int, gate: Path) -> None:
    real = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        if gate.exists():
            raise OSError(number, os.strerror(number))
        return real(*arguments, **keywords)

    setattr(owner, name, call)


_OWNERS = {"fork": os, "pidfd_open": os, "waitid": os, "send_fds": socket, "recv_fds": socket, "read_text": Path}
_name, _, _error = os.environ["FAILING"].partition(" ")
_fail(_OWNERS[_name], _name, getattr(errno, _error), Path(os.environ["FAILING_WHILE"]))
