"""Reads the forms that the console's own pages send."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import parse_qsl

from fastapi import Request

from app.api.base import MAX_REVISION
from app.problems import Problem
from routing.rollout.model import storable, to_basis_points

MAX_REASON: Final = 1024
_MAX_FIELDS: Final = 200
_CONTENT_TYPE: Final = "application/x-www-form-urlencoded"


class InvalidForm(Exception):
    """A field of a form is wrong. Its message is a sentence for the person who filled it in."""


async def read_form(request: Request) -> Mapping[str, str]:
    """Reads the fields. The last one counts if a name comes twice.

    Raises:
        Problem: `invalid_request`, if this is not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _CONTENT_TYPE:
        raise Problem("invalid_request", "This is not a form of this console.")
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise Problem("invalid_request", "The form cannot be read.") from None


def reason_of(form: Mapping[str, str]) -> str | None:
    """The reason, or None if none is given."""
    return storable(form.get("reason", "").strip()[:MAX_REASON]) or None


def revision_of(form: Mapping[str, str]) -> int:
    """The revision that the person looked at. Raises InvalidForm."""
    text = form.get("revision", "")
    if not (text.isascii() and text.isdecimal()) or int(text[:12]) > MAX_REVISION:
        raise InvalidForm("The form does not say which revision it is about. Load the page again.")
    return int(text)


def points_of(form: Mapping[str, str]) -> int:
    """The percentage, in hundredths of a percent. Raises InvalidForm."""
    text = form.get("percent", "").strip().removesuffix("%").strip().replace(",", ".")
    if not text.isascii():
        text = ""
    try:
        return to_basis_points(Decimal(text))
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidForm(f"{text[:32]!r} is not a percentage from 0 to 100 in steps of 0.01.") from None
