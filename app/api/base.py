"""Types that the bodies, parameters and answers of several resources share."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from app.api.bodies import BodyRoute
from routing.catalog.texts import ID_PATTERN, ID_RULE, MAX_ID_LENGTH, storable

MAX_KEY = 2**63 - 1
"""The largest key of a database row; a larger cursor would be an error of the database."""
MAX_REVISION = 2**31 - 1
_MAX_UNKNOWN_MEMBERS = 20
"""The unknown members of an object that are told one by one; each costs as much as a small body."""


class Router(APIRouter):
    """A router whose routes go into the application as they are, and are built once for that.

    The operations of the OpenAPI document have the names of its functions, which generated clients can show.
    """

    def __init__(self, *, prefix: str = "", tags: list[str | Enum], route_class: type[APIRoute] = BodyRoute) -> None:
        super().__init__(
            prefix=prefix,
            tags=tags,
            route_class=route_class,
            generate_unique_id_function=lambda route: route.name,
        )


class Matching:
    """A regular expression for texts, as an annotation. A misfit is told by the rule, which is in words."""

    def __init__(self, pattern: str, rule: str) -> None:
        self._pattern = re.compile(pattern)
        self._rule = rule

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self._pattern.pattern}

    def _checked(self, text: str) -> str:
        if self._pattern.fullmatch(text) is None:
            raise ValueError(f"{self._rule}; got {text!r}")
        return text


Identifier = Annotated[str, Field(max_length=MAX_ID_LENGTH, examples=["invoices-42"]), Matching(ID_PATTERN, ID_RULE)]
"""An id that a client chooses."""
Text = Annotated[str, AfterValidator(storable)]
"""A text parameter of any kind. `In` checks the members of bodies alike; a test looks for parameters without it."""

Item = TypeVar("Item")
_Found = TypeVar("_Found")


class In(BaseModel):
    """A request body: refuses unknown fields, `"10"` or `true` for a number, and text that cannot be stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > len(cls.model_fields) + _MAX_UNKNOWN_MEMBERS:
            raise ValueError(f"this has {len(value)} members, and may have {len(cls.model_fields)}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _check_storable(cls, value: Any) -> Any:
        return storable(value)


class Out(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(frozen=True)


class Page(Out, Generic[Item]):
    """A page of items; `next_cursor` asks for the page after it, and is null on the last one."""

    items: list[Item]
    next_cursor: str | None


def page_of(
    found: Sequence[_Found], limit: int, *, view: Callable[[_Found], Item], cursor: Callable[[_Found], object]
) -> Page[Item]:
    """Shows the first `limit` of what was found, which is one more if another page follows.

    `cursor` names the position of an item, after which the next page begins.
    """
    items = [view(one) for one in found[:limit]]
    return Page(items=items, next_cursor=str(cursor(found[limit - 1])) if len(found) > limit else None)
