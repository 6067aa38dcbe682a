"""Checks text outside pydantic's reach before it goes to the store."""

from app.problems import Problem
from routing.catalog.texts import storable


def check_text(place: str, text: str) -> str:
    """Returns `text` if the store can hold it.

    Raises:
        Problem: `invalid_request`, which names `place`.
    """
    try:
        storable(text)
    except ValueError as error:
        message = str(error)
        detail = f"{place}: {message}"
        raise Problem("invalid_request", detail, extensions={"errors": [{"at": place, "message": message}]}) from None
    return text
