"""The text of an exception that a program raised: short, and fit to be sent, whatever the exception is."""

import traceback

from poolshift.worker.errors import ProgramError

MAX_MESSAGE_LENGTH = 4096
"""The length of a message for the caller, in characters."""
MAX_TRACEBACK_LENGTH = 16 * 1024
"""The length of a traceback for the log, in characters. A longer one loses its middle: its end names the error."""


def describe(error: BaseException) -> ProgramError:
    """The error for the caller: the exception's type and message, not its traceback."""
    message, name = _message(error), _name(error)
    return ProgramError(truncate(f"{name}: {message}" if message else name, MAX_MESSAGE_LENGTH))


def traceback_of(error: BaseException) -> str:
    """The traceback for the log."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:  # exceptions can have attributes that raise
        text = f"{describe(error).detail} (its traceback cannot be told)"
    if len(text) > MAX_TRACEBACK_LENGTH:
        half = MAX_TRACEBACK_LENGTH // 2
        text = f"{text[:half]}\n…\n{text[-half:]}"
    return truncate(text, len(text))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:  # it is the program's code
        return f"its message cannot be told: {_name(failure)} in __str__"


def _name(error: BaseException) -> str:
    try:
        name = type(error).__name__
    except BaseException:  # a metaclass is the program's code too
        return "an exception without a name"
    return name if type(name) is str else "an exception without a name"


def truncate(text: str, max_length: int) -> str:
    r"""At most `max_length` characters of `text`, an ellipsis if there were more, and fit for JSON and any database.

    A lone surrogate, which has no JSON, becomes its escape (`\ud800`), and so does a NUL (`\x00`).
    """
    if len(text) > max_length:
        text = text[:max_length] + "…"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
