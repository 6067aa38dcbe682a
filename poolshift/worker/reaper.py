"""The zygote's parent: it does nothing but outlive the zygote, and kill whatever that has left.

A process that a program has started, and that has left its worker's process group, belongs to the next ancestor that
adopts orphans: to the worker, when that is dead to the zygote, when that is dead too to this process. If this process
is killed, the zygote ends everything itself.
"""

import os
import signal
from collections.abc import Callable

from poolshift.worker import linux
from poolshift.worker.fast_exit import exit_fast


def run_beside_reaper(main: Callable[[], None]) -> None:
    """Runs `main` in a child of this process and returns there; this process ends once all of its descendants have.

    The child is still dumpable: `main` opens what it needs of /proc/self, and then hides the process.
    """
    linux.adopt_orphans()
    reaper = os.getpid()
    zygote = os.fork()
    if zygote:
        try:
            linux.set_dumpable(False)
            _reap(zygote)
        finally:
            os._exit(1)
    # Until the zygote serves: it can hang while it imports what it preloads.
    linux.die_with_parent()
    if os.getppid() == reaper:
        main()
        exit_fast(0)


def _reap(zygote: int) -> None:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the zygote's end shows at the service by its closed socket
    signal.signal(signal.SIGTERM, lambda *_: linux.kill(zygote))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCONT, lambda *_: os.kill(zygote, signal.SIGCONT))  # the service knows this process alone
    linux.signal_at_parents_death(signal.SIGTERM)  # without the service, even a zygote that is stopped ends
    while os.waitpid(-1, 0)[0] != zygote:
        pass
    linux.end_children()
