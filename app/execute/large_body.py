"""Finds the inputs in a large body without a scan of them, since the event loop would stand still for it."""

import re
from typing import Final

import msgspec

from app.execute.envelopes import Envelope, decode_envelope
from poolshift.worker.framing import MALFORMED

LARGE_BYTES: Final = 16 * 1024
"""The inputs of a larger body are scanned by the worker alone, which reads them anyway."""
_MAX_OTHER_BYTES: Final = 4096
"""Limit of what stands before the inputs, and of what stands behind them."""
_BEFORE_INPUTS: Final = re.compile(rb'\s*\{[^{}]{0,%d}?"inputs"\s*:\s*(?=\{)' % _MAX_OTHER_BYTES)


def envelope_of(body: bytes) -> Envelope | None:
    """Returns the envelope of a body that is JSON if its `inputs` are; None if only a scan can tell.

    The inputs are taken to end at the last brace but one. What stands before them and behind them must be an envelope
    with other inputs in their place. A JSON object never goes on after its end, so inputs that are one can end nowhere
    else. The worker finds out if they are one, and answers `invalid_request` if not: so it does if a body has its
    `inputs` twice, of which a scan takes the last.
    """
    start = _BEFORE_INPUTS.match(body)
    end = body.rfind(b"}", 0, body.rfind(b"}")) + 1
    if start is None or end <= start.end() or len(body) - end > _MAX_OTHER_BYTES:
        return None
    try:
        envelope = decode_envelope(b"%s{}%s" % (start[0], body[end:]))
    except MALFORMED:
        return None
    envelope.inputs = msgspec.Raw(memoryview(body)[start.end() : end])
    return envelope
