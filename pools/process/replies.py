"""Replies of a worker: from their bytes to the error that the caller gets. A program can forge them."""

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
from poolshift.worker.exception_text import MAX_MESSAGE_LENGTH, truncate
from poolshift.worker.messages import Failed, Reply

MAX_DETAIL_LENGTH: Final = MAX_MESSAGE_LENGTH + 64
"""Limit of an error text from a worker. The worker itself sends less."""

_reply_decoder: Final[msgspec.json.Decoder[Reply]] = msgspec.json.Decoder(Reply)


def decode_reply(payload: bytes) -> Reply:
    """Decodes a reply, and raises one of `MALFORMED` if it cannot.

    msgspec does not check the text that it leaves raw, such as the outputs: this function does.
    """
    if not payload.isascii():
        payload.decode()
    return _reply_decoder.decode(payload)


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
