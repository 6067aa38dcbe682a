"""Checks that large outputs are JSON, in a thread, so that the event loop goes on meanwhile."""

import asyncio
import codecs
import contextlib
import sqlite3
import time
from collections.abc import Callable
from typing import Final

MAX_SCANNED_BYTES: Final = 512 * 1024
"""A larger JSON is not scanned on the event loop, which would stand still for over half a millisecond."""
_SLICE_BYTES: Final = 256 * 1024


def check_json(text: memoryview, loop: asyncio.AbstractEventLoop, on_known: Callable[[bool], None]) -> None:
    """Calls `on_known` on the event loop with the answer of `is_json`, at once if no thread can be had."""
    try:
        check = loop.run_in_executor(None, is_json, text)
    except RuntimeError:
        on_known(is_json(text))
        return
    check.add_done_callback(
        lambda check: on_known(not check.cancelled() and check.exception() is None and check.result())
    )


def is_json(text: memoryview) -> bool:
    """Tells if `text` is one JSON value (RFC 8259) in UTF-8, nested 1,000 levels at most.

    msgspec is four times faster, but no other thread runs while it scans. SQLite lets them run.
    """
    if not _is_text(text):
        return False
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        (is_valid,) = connection.execute("SELECT json_valid(CAST(? AS TEXT))", (text,)).fetchone()
    return bool(is_valid)


def _is_text(text: memoryview) -> bool:
    """Tells if `text` is UTF-8 without NUL, which would be the end of the text for SQLite."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    try:
        for start in range(0, len(text), _SLICE_BYTES):
            is_last = start + _SLICE_BYTES >= len(text)
            if "\0" in decode(text[start : start + _SLICE_BYTES], is_last):
                return False
            time.sleep(0)  # lets the event loop run
    except UnicodeDecodeError:
        return False
    return True
