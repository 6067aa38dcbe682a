"""The controlling terminal of this process, and its hangup."""

import signal
from pathlib import Path


def has_terminal() -> bool:
    """Tells if this process has a controlling terminal (proc(5), stat, tty_nr)."""
    stat = Path("/proc/self/stat").read_text()
    return stat.rpartition(")")[2].split()[4] != "0"


def ends_at_hangup() -> bool:
    """Tells if SIGHUP ends the service: there is a terminal, and nohup(1) has not had its hangup ignored."""
    return has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
