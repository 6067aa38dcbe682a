"""Replies of a worker: from their bytes to the error that the caller gets. A program can forge them."""

from collections.abc import Callable
from typing import Final

import msgspec

from pools.errors import (
    ExecutionError,
    InvalidInputs,
    InvalidOutputs,
    LMError,
    LMNotConfigured,
    LoadFailed,
    MalformedInputs,
    ProgramError,
)
from pools.process.json_check import MAX_SCANNED_BYTES
from poolshift.worker.exception_text import MAX_MESSAGE_LENGTH, truncate
from poolshift.worker.framing import FrameError, cut_in_two
from poolshift.worker.messages import MAX_EVENT_BYTES, Done, Failed, Progress, Reply

MAX_DETAIL_LENGTH: Final = MAX_MESSAGE_LENGTH + 64
"""Limit of an error text from a worker. The worker itself sends less."""

_decode_reply: Final[Callable[[bytes], Reply]] = msgspec.json.Decoder(Reply).decode
_decode_json: Final[Callable[[bytes | memoryview], msgspec.Raw]] = msgspec.json.Decoder(msgspec.Raw).decode
_NOTHING: Final = msgspec.Raw(b"")


def decode_reply(payload: bytes | memoryview) -> tuple[Reply, msgspec.Raw]:
    """Decodes a reply, and returns with it the outputs or the event's data that it is about.

    Those are JSON, except that nobody has looked at outputs of over `MAX_SCANNED_BYTES`.

    Raises:
        FrameError, MALFORMED: it is no reply.
    """
    message, body = cut_in_two(payload)
    is_plain = isinstance(payload, bytes) and payload.isascii()
    if not is_plain:
        _check_text(message)  # msgspec does not check the text that it leaves raw, such as a span
    reply = _decode_reply(message)
    if isinstance(reply, Done):
        if len(body) > MAX_SCANNED_BYTES:
            return reply, msgspec.Raw(body)
        return reply, _decode_json(body) if is_plain else _scanned(body)
    if isinstance(reply, Progress):
        if len(body) > MAX_EVENT_BYTES:
            raise FrameError(f"an event of {len(body)} bytes is over the limit of {MAX_EVENT_BYTES}")
        return reply, _scanned(body)
    return reply, _NOTHING


def _scanned(body: bytes | memoryview) -> msgspec.Raw:
    _check_text(body)
    return _decode_json(body)


def _check_text(text: bytes | memoryview) -> None:
    """Raises UnicodeDecodeError unless it is UTF-8."""
    if isinstance(text, memoryview):
        str(text, "utf-8")
    elif not text.isascii():
        text.decode()


def error_of(failed: Failed) -> ExecutionError:
    """The error that a worker reports, of the class whose code it names."""
    detail = truncate(failed.detail, MAX_DETAIL_LENGTH)  # a program can forge the message
    field = None if failed.field is None else truncate(failed.field, MAX_DETAIL_LENGTH)
    match failed.code:
        case InvalidInputs.code:
            return InvalidInputs(detail, field=field)
        case InvalidOutputs.code:
            return InvalidOutputs(detail, field=field)
        case MalformedInputs.code:
            return MalformedInputs(detail, started=False)
        case LMNotConfigured.code:
            return LMNotConfigured(detail, started=False)
        case LoadFailed.code:
            return LoadFailed(detail)
        case LMError.code:
            return LMError(detail, retry_after_s=failed.retry_after_s)
        case _:
            return ProgramError(detail)
