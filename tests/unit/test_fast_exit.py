"""A process that ends fast leaves nothing undone that Python would have done, but for freeing its memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import DEADLINE_S

START = "from poolshift.worker.fast_exit import exit_fast\nimport atexit, sys, threading, time\n"


def run(code: str, output: int = subprocess.PIPE) -> "subprocess.CompletedProcess[bytes]":
    """Runs code in a process of its own."""
    command = [sys.executable, "-P", "-c", START + code]
    # Without PYTHONUNBUFFERED, by which nothing would be left to flush.
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False, timeout=DEADLINE_S, env={})


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_told(status: int) -> None:
    """And nothing follows."""
    done = run(f"exit_fast({status})\nprint('goes on')")
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")


def test_all_that_python_does_is_done_in_its_order() -> None:
    """Threads end, then what `atexit` has runs, the last first; and all that was printed arrives."""
    code = """
sys.stdout.write("main, ")
threading.Thread(target=lambda: (time.sleep(0.05), sys.stdout.write("thread, "))).start()
atexit.register(sys.stdout.write, "first registered")
atexit.register(sys.stdout.write, "last registered, ")
exit_fast(0)
"""
    assert run(code).stdout == b"main, thread, last registered, first registered"


def test_no_object_is_freed() -> None:
    """Freeing takes Python its time."""
    code = """
class Freed:
    def __del__(self): print("freed", flush=True)
kept = Freed()
exit_fast(0)
"""
    assert run(code).stdout == b""


def test_an_output_without_a_reader_is_told_as_python_tells_it() -> None:
    """By its status 120, and a line."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = run("print('lost')\nexit_fast(0)", output=write)
    finally:
        os.close(write)
    assert (done.returncode, b"BrokenPipeError" in done.stderr) == (120, True)


def test_a_process_without_streams_ends_all_the_same() -> None:
    """A daemon's streams can be closed."""
    assert run("sys.stdout = sys.stderr = None\nexit_fast(0)").returncode == 0


def test_the_command_ends_fast(tmp_path: Path) -> None:
    """An exit function that a package has registered at the start runs; the package's objects are not freed."""
    (tmp_path / "observed.py").write_text(
        "import atexit\n"
        "class Freed:\n    def __del__(self): print('freed', flush=True)\n"
        "kept = Freed()\n"
        "atexit.register(print, 'told')\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import observed; sys.argv[1:] = ['--version']\n"
    done = run(code + "from _poolshift_service import main; main()")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, b"told")
