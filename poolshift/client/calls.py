"""A call as data: its request, and the way to read its answer. The transports do the I/O."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from poolshift.client.errors import UnexpectedAnswer
from poolshift.client.problems import read_problem

T = TypeVar("T")
Value = str | int | float | bool | None
NO_PARAMS: Mapping[str, Value] = {}
PAGE_SIZE = 1000
"""The largest page of the service, in items."""
_SHOWN = 120
"""Characters of a foreign answer that its error repeats."""


@dataclass(frozen=True)
class RawAnswer:
    """An HTTP response. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Answer(Generic[T]):
    """An answer with its headers and its JSON as the service has sent it."""

    value: T
    raw: RawAnswer

    def json(self) -> Any:
        """Decodes the content, with the members that this version of the client does not know; None if it is empty."""
        return msgspec.json.decode(self.raw.content) if self.raw.content else None


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and the way to read its answer."""

    method: str
    path: str
    read: Callable[[RawAnswer], T]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    is_idempotent: bool = False
    """True if the service may get the request twice."""
    more_statuses: tuple[int, ...] = ()
    """Statuses of failures whose answers are read like those of successes."""
    patience_s: float = 0.0
    """Seconds that the service may take for the call, if the caller has named them."""

    def answer(self, raw: RawAnswer) -> Answer[T]:
        """Reads a response.

        Raises:
            PoolshiftError: the service refuses the call, or something else has answered.
        """
        if 200 <= raw.status < 300 or raw.status in self.more_statuses:
            try:
                return Answer(self.read(raw), raw)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError) as error:
                raise UnexpectedAnswer(f"the answer is not one of this version of Poolshift: {error}") from None
        raise self.refusal(raw)

    @staticmethod
    def refusal(raw: RawAnswer) -> Exception:
        """Makes the error of a response that is not a success."""
        problem = read_problem(raw.status, raw.content, raw.headers.get("retry-after")) if raw.status >= 400 else None
        return problem or UnexpectedAnswer(_foreign(raw), status=raw.status)


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list; `next_cursor` asks for the page after it, and is None on the last one."""

    items: list[T]
    next_cursor: str | None = None


@dataclass(frozen=True)
class Listing(Generic[T]):
    """A list that the service answers page by page."""

    path: str
    kind: type[Page[T]]
    limit: int | None
    """The items to get at most; None is all of them."""
    params: Mapping[str, Value] = field(default_factory=dict)
    first: int | None = None
    """The cursor of the first page, if that is not the beginning."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}: a list has 1 item at least")

    def page(self, cursor: str | None = None, taken: int = 0) -> Call[Page[T]] | None:
        """Makes the call for the page after the first `taken` items; None if they are enough."""
        size = PAGE_SIZE if self.limit is None else min(PAGE_SIZE, self.limit - taken)
        if size <= 0:
            return None
        return get(
            self.path, self.kind, {**self.params, "limit": size, "cursor": self.first if cursor is None else cursor}
        )


class Pager(Generic[T]):
    """Names the next page to get, until the list ends or the limit is reached."""

    def __init__(self, listing: Listing[T]) -> None:
        self._listing = listing
        self._cursor: str | None = None
        self._taken = 0
        self._has_ended = False

    def next_call(self) -> Call[Page[T]] | None:
        """The call for the next page; None at the end."""
        return None if self._has_ended else self._listing.page(self._cursor, self._taken)

    def took(self, page: Page[Any]) -> None:
        """Goes on after a page.

        Raises:
            UnexpectedAnswer: the service names the same page again, and so for ever.
        """
        if page.next_cursor is not None and page.next_cursor == self._cursor:
            raise UnexpectedAnswer(f"the list does not go on after the cursor {self._cursor!r}")
        self._cursor = page.next_cursor
        self._taken += len(page.items)
        self._has_ended = page.next_cursor is None


def reader(kind: type[T]) -> Callable[[RawAnswer], T]:
    """Makes a reader of JSON. Members that `kind` does not have are left out."""
    decoder = msgspec.json.Decoder(kind)
    return lambda raw: decoder.decode(raw.content)


def nothing(raw: RawAnswer) -> None:
    """Reads an answer without content."""


def get(path: str, kind: type[T], params: Mapping[str, Value] = NO_PARAMS) -> Call[T]:
    """Makes a call that reads."""
    return Call("GET", path, reader(kind), params=given(params), is_idempotent=True)


def post(path: str, kind: type[T], body: Any = None, *, is_idempotent: bool = False) -> Call[T]:
    """Makes a call that does something, with a body of JSON."""
    content, headers = encoded(body)
    return Call("POST", path, reader(kind), headers=headers, content=content, is_idempotent=is_idempotent)


def encoded(body: Any) -> tuple[bytes | None, dict[str, str]]:
    """Encodes a body of JSON, and makes its headers; None is no body.

    Raises:
        TypeError: a value is of a type that JSON does not have.
        ValueError: a number is not finite, or a text has half a surrogate pair.
    """
    if body is None:
        return None, {}
    plain = msgspec.to_builtins(body, str_keys=True)  # msgspec itself would write NaN as null
    content = json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    return content, {"content-type": "application/json"}


def given(values: Mapping[str, Value]) -> dict[str, str]:
    """Leaves out what is None, and writes the rest as text."""
    return {name: _text(value) for name, value in values.items() if value is not None}


def members(**values: Any) -> dict[str, Any]:
    """Leaves out the members of a body that are None."""
    return {name: value for name, value in values.items() if value is not None}


def segment(text: str) -> str:
    """Encodes an id as one segment of a path, so that no id reaches another resource.

    Raises:
        ValueError: the text is not an id.
    """
    if text in ("", ".", ".."):
        raise ValueError(f"{text!r} is not an id")
    return quote(text, safe="")


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _foreign(raw: RawAnswer) -> str:
    shown = " ".join(raw.content[:_SHOWN].decode(errors="replace").split())
    return f"the answer is not one of Poolshift (status {raw.status}" + (f": {shown!r})" if shown else ")")
