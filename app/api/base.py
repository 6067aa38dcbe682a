"""Types that the bodies and answers of several resources share."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

_ID = "[A-Za-z0-9][A-Za-z0-9._~:-]*"
ID_PATTERN = f"^{_ID}$"
"""As pydantic, which has Rust's regular expressions, and the OpenAPI document need it."""
ID_PATTERN_OF_RE = rf"\A{_ID}\Z"
"""The same for Python's `re`, in which `$` would let a newline follow."""
MAX_ID_LENGTH = 128
MAX_KEY = 2**63 - 1
"""Of a row in the database; a cursor over it would be the database's error."""
MAX_REVISION = 2**31 - 1
Identifier = Annotated[str, Field(pattern=ID_PATTERN, max_length=MAX_ID_LENGTH, examples=["invoices-42"])]

Item = TypeVar("Item")


class In(BaseModel):
    """A body: unknown fields are refused, and so is `"10"` or `true` for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Out(BaseModel):
    """An answer."""

    model_config = ConfigDict(frozen=True)


class Page(Out, Generic[Item]):
    """Some items; `next_cursor` asks for those that follow, and is null at the end."""

    items: list[Item]
    next_cursor: str | None
