"""Ownership in SQL."""

from typing import Any

from sqlalchemy import ColumnElement, true

from routing.catalog.owners import Caller


def seen_by(caller: Caller, owner: ColumnElement[Any]) -> ColumnElement[bool]:
    """The condition that `caller` may see a row, by its column `owner`: `Caller.may_see` in SQL."""
    if caller.sees_all:
        return true()
    return owner.is_(None) | (owner == caller.owner)
