"""Ends a process as Python does, but leaves its memory to the kernel.

Python frees all objects one by one at its end, which takes a service a quarter of the processor time of its start, and
a zygote a third: after a fork each object lies on a page that has to be copied first.
"""

import atexit
import os
import sys
import threading


def exit_fast(status: int) -> None:
    """Ends the process with `status` after its threads, what `atexit` has, and what the standard streams hold.

    Returns if a stream cannot be written to. Python says so at its own end.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as `Py_FinalizeEx` does; both have no public name
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # a pipe without a reader; a stream that is closed
        return
    os._exit(status)
