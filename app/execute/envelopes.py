"""Bodies that the execute lane reads and writes.

They are apart from the lane, which is compiled (docs/adr/0007): msgspec needs classes that Python makes.
"""

import re
from typing import Annotated, Final

import msgspec

from app.problems import Problem
from routing.catalog.texts import ID_PATTERN_OF_RE, ID_RULE, MAX_ID_LENGTH

MAX_ITEMS = 1000
"""Limit of the items of one batch."""

_PATTERN_TOLD = re.compile(r"Expected `str` matching regex '.*'")
_Identifier = Annotated[str, msgspec.Meta(pattern=ID_PATTERN_OF_RE, max_length=MAX_ID_LENGTH)]


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """A request's body. `inputs` stay unparsed."""

    inputs: msgspec.Raw
    session_id: _Identifier | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    webhook: str | None = None


class BatchEnvelope(msgspec.Struct, forbid_unknown_fields=True):
    """A batch's body: the inputs of each item, unparsed, and what all items share."""

    inputs: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_ITEMS)]
    session_id: _Identifier | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


decode_envelope: Final = msgspec.json.Decoder(Envelope).decode
decode_batch: Final = msgspec.json.Decoder(BatchEnvelope).decode


def misfit(error: Exception) -> Problem:
    """Makes the problem of a body that raised one of `MALFORMED`; the pattern, which ids alone have, is in words."""
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else _PATTERN_TOLD.sub(ID_RULE, str(error))
    return Problem("invalid_request", f"body: {reason}")
