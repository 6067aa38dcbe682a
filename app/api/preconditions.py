"""Conditional requests (RFC 9110, 13.1): the ETag of a thing is its revision."""

from typing import Annotated

from fastapi import Header

from app.api.base import MAX_REVISION, Text
from app.problems import Problem
from routing.catalog.revisions import Precondition

IfMatch = Annotated[Text | None, Header(description="The revision that the change is meant for")]
IfNoneMatch = Annotated[Text | None, Header(description="`*`: creates, and replaces nothing")]

_ANY = "*"
_SHOWN = 64
"""Characters of a wrong header that its error repeats."""
_MAX_DIGITS = len(str(MAX_REVISION))


def etag(revision: int) -> str:
    """The ETag of a revision."""
    return f'"{revision}"'


def expected_revision(if_match: str | None) -> int | None:
    """The revision that an If-Match header names; None if any will do."""
    if if_match is None or if_match.strip() == _ANY:
        return None
    tag = if_match.strip().removeprefix("W/").strip('"')
    if not (tag.isascii() and tag.isdecimal()):
        raise Problem("invalid_request", f"If-Match: {if_match[:_SHOWN]!r} is not a revision")
    # A longer number is never in force, and Python would not even convert one of 5,000 digits.
    return int(tag) if len(tag) <= _MAX_DIGITS else MAX_REVISION + 1


def precondition(if_match: str | None, if_none_match: str | None) -> Precondition:
    """Reads both headers for a change that may create or replace."""
    if if_none_match is not None and if_none_match.strip() != _ANY:
        raise Problem("invalid_request", f"If-None-Match: {if_none_match[:_SHOWN]!r} is not *")
    return Precondition(
        must_exist=if_match is not None,
        must_be_new=if_none_match is not None,
        revision=expected_revision(if_match),
    )
