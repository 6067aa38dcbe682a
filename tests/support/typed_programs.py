"""Programs whose annotations say more than a signature's types, and programs that return objects of libraries."""

import datetime
import enum
import functools
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
import pandas as pd
import pydantic


class Size(enum.Enum):
    SMALL = "S"
    LARGE = "L"


@dataclass
class Address:
    city: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Parcel:
    grams: int
    size: Size
    to: Address | None = None


class Line(pydantic.BaseModel):
    sku: str
    quantity: int = pydantic.Field(ge=1, alias="qty")


class Order(pydantic.BaseModel):
    number: int
    lines: list[Line]
    due: datetime.date | None = None

    @pydantic.model_validator(mode="after")
    def _has_lines(self) -> "Order":
        if not self.lines:
            raise ValueError("an order has lines")
        return self


class Quote(TypedDict):
    total: float
    heaviest: Parcel | None


def parcels(parcels: list[Parcel], size: Size = Size.LARGE) -> Quote:
    """Fails unless its arguments are objects of the annotated types."""
    assert isinstance(size, Size)
    assert all(isinstance(one, Parcel) and isinstance(one.size, Size) for one in parcels)
    assert all(one.to is None or isinstance(one.to, Address) for one in parcels)
    heaviest = max(parcels, key=lambda one: one.grams, default=None)
    return {"total": float(sum(one.grams for one in parcels if one.size is size)), "heaviest": heaviest}


def order(order: Order, rush: bool | None) -> Order:
    assert isinstance(order, Order)
    assert all(isinstance(line, Line) for line in order.lines)
    return order if not rush else order.model_copy(update={"due": datetime.date(2026, 1, 1)})


def days(day: datetime.date, count: Literal[1, 7], marks: dict[str, list[int]]) -> list[datetime.date]:
    assert sum(map(sum, marks.values())) >= 0
    return [day + datetime.timedelta(number) for number in range(count)]


def counting(steps: int) -> Generator[int, None, Address]:
    yield from range(steps)
    return Address(str(steps))


class Labels:
    """A program that is a class."""

    def __call__(self, to: Address, size: Size | None) -> list[str]:
        assert isinstance(to, Address)
        assert size is None or isinstance(size, Size)
        return [to.city, *to.lines, "" if size is None else size.name]


@functools.lru_cache(maxsize=8)
def cached(number: int) -> int:
    return number * 2


@functools.lru_cache
async def cached_async(number: int) -> int:
    return number


def doubled(blob: bytes) -> bytes:
    return blob * 2


def liar(kind: str) -> list[int]:
    """Returns anything but a list of integers."""
    returned: dict[str, Any] = {"text": "no", "item": [1, "two"], "object": [1, object()], "nan": [1, float("nan")]}
    return returned[kind]  # type: ignore[no-any-return]


def anything(**inputs: Any) -> int:
    return len(inputs)


def unreadable(matrix: np.ndarray[Any, Any]) -> int:
    return int(matrix.sum())


def returns(kind: str) -> Any:
    """Returns an object of a library, one of each kind."""
    made: dict[str, Any] = {
        "scalars": [np.int64(1), np.float32(0.5), np.bool_(True), np.str_("a"), np.datetime64("2026-01-02")],
        "array": np.arange(6).reshape(2, 3) / 2,
        "holes": np.array([1.0, np.nan]),
        "times": np.array(["2026-01-02T03:04:05", "NaT"], dtype="datetime64[ns]"),
        "keys": {np.int64(1): np.array([True])},
        "model": {"order": Order(number=1, lines=[Line(sku="hat", qty=2)], due=datetime.date(2026, 1, 2))},
        "frame": pd.DataFrame(
            {"sku": ["hat", None], "sold": [1.5, np.nan], "on": [pd.Timestamp("2026-01-02"), pd.NaT]}
        ),
        "series": pd.Series([1, pd.NA], dtype="Int64"),
        "extension": [pd.Categorical(["a", None]), pd.array([1, None], dtype="Int64")],
        "periods": [pd.Period("2026-01", freq="M"), pd.Interval(0, 1)],
        "bytes": b"\x00\xff",
        "complex": [0, np.complex64(1j)],
        "same names": pd.DataFrame([[1, 2]], columns=["a", "a"]),
        "unknown": {"rows": [{"made": object()}]},
        "generator": {"rows": (number for number in range(3))},
        "keyed": {("a", "b"): 1},
    }
    return made[kind]


def number(kind: str) -> Any:
    return {"nan": float("nan"), "numpy": np.float64("nan"), "infinite": np.inf, "fits": np.float64(0.5)}[kind]
