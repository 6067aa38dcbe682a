"""Shadow calls: what differs between V1's and V2's outputs (`/shadow`)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from poolshift.client.calls import Call, get, members, post, segment


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """The comparisons that are missing until something is likely to be known, and their time at the rate so far."""

    calls: int
    seconds: float | None = None


class ShadowField(msgspec.Struct, frozen=True, kw_only=True):
    """One output of one program, compared."""

    program_id: str
    field: str
    """`$error` stands for the code of the error, or none."""
    compared: int
    differing: int
    noise: int
    """Differing calls that V1 compared with itself explains."""
    differs: bool
    verdict: str = "unknown"
    """`differs`, `suspected`, `alike` or `unknown`: few comparisons without a difference show nothing yet."""
    missing: Missing | None = None
    """None if the verdict is known, or not to be foreseen."""
    interval: tuple[float, float]
    log_e: float = 0.0
    threshold: float = 0.0


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The scores by a program's metric, as shares of its range."""

    pairs: int
    organic: tuple[int, int]
    interval: tuple[float, float]
    worse: bool
    not_worse: bool
    v1_mean: float | None = None
    v2_mean: float | None = None
    log_e: float = 0.0
    threshold: float = 0.0


class ShadowExample(msgspec.Struct, frozen=True, kw_only=True):
    """A call whose outputs differ. Inputs and values are for admins."""

    program_id: str
    execution_id: str
    odd: dict[str, str]
    trace_id: str | None = None
    inputs: str | None = None
    v1: dict[str, str] | None = None
    v2: dict[str, str] | None = None
    diff: list[str] | None = None


class ProgramShadow(msgspec.Struct, frozen=True, kw_only=True):
    """The shadow calls of one program."""

    compared: int
    differing: int
    shed: int
    fields: list[ShadowField]
    shed_reasons: dict[str, int] = {}
    quality: Quality | None = None
    metric_failures: dict[str, int] = {}
    v1_ms: float | None = None
    v2_ms: float | None = None
    examples: list[ShadowExample] = []
    missing_replicas: list[str] = []
    """The replicas of the machine that are missing, with the reason, such as `1: silent`."""


class Shadow(ProgramShadow, frozen=True, kw_only=True):
    """The shadow calls of all programs, on one replica."""

    shadow_percent: float
    programs: list[str]
    never_run: list[str] | None = None
    """Programs with traffic in the last 24 h that V2 has never run; None if the service cannot tell."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One call on both versions, compared."""

    fields: dict[str, str]
    v1_error: str | None = None
    """The code of V1's error; None if it has outputs."""
    v2_error: str | None = None
    v1_ms: float | None = None
    v2_ms: float | None = None
    example: ShadowExample | None = None


def show() -> Call[Shadow]:
    """Reads the shadow calls of one replica: what differs, and what is noise (scope `observe`)."""
    return get("/shadow", Shadow)


def show_program(program_id: str) -> Call[ProgramShadow]:
    """Reads the shadow calls of one program (scope `observe`).

    Raises:
        NotFound: none has been compared.
    """
    return get(f"/shadow/{segment(program_id)}", ProgramShadow)


def compare(program_id: str, inputs: Mapping[str, Any], *, session_id: str | None = None) -> Call[Compared]:
    """Runs a call on both versions and compares them (scope `admin`); for programs that may run twice."""
    body = {"inputs": inputs, **members(session_id=session_id)}
    return post(f"/shadow/{segment(program_id)}/compare", Compared, body)
