"""`ROLLOUT_FILE`: percentage and shadow from a mounted file (YAML or JSON). An invalid file moves no traffic."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.log_once import LogOnce
from config import mounted_file
from routing.errors import StoreUnavailable
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Change, Source, to_basis_points

FIRST_LOOK_TIMEOUT_S = 5.0
"""Time that a start waits for the file, in seconds: a mounted folder may hang."""
SETTLE_S = 1.0
"""Time that a file without a final line break must stay unchanged, in seconds: the file may be half-written."""


class InvalidRolloutFile(Exception):
    """The file does not describe a rollout."""


class _FileBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    canary_percent: float | int = Field(ge=0, le=100, allow_inf_nan=False)
    shadow_percent: float | int | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    reason: str | None = Field(None, max_length=1024)


def parse(content: bytes, by: str) -> Change:
    """Reads the change that a file asks for. Raises InvalidRolloutFile."""
    try:
        body = _FileBody.model_validate(mounted_file.parse(content))
        shadow = None if body.shadow_percent is None else to_basis_points(Decimal(str(body.shadow_percent)))
        return Change(to_basis_points(Decimal(str(body.canary_percent))), Source.FILE, by, body.reason, shadow)
    except ValidationError as error:
        raise InvalidRolloutFile(mounted_file.problems(error)) from None
    except (mounted_file.InvalidDocument, ValueError, ArithmeticError) as error:
        raise InvalidRolloutFile(str(error)) from None


async def follow(
    contents: AsyncIterator[bytes | OSError], apply: Callable[[bytes], Awaitable[bool]], log_once: LogOnce
) -> None:
    """Calls `apply` with each new content of a file, until it returns true; a file in the making is waited for."""
    applied: bytes | None = None
    unsettled: tuple[bytes, float] | None = None
    async for content in contents:
        if isinstance(content, OSError):
            log_once.warn(f"it cannot be read: {content.strerror}")
            continue
        if content == applied:
            continue
        now = asyncio.get_running_loop().time()
        if not content.endswith(b"\n"):
            if unsettled is None or unsettled[0] != content:
                unsettled = content, now
            if now - unsettled[1] < SETTLE_S:
                continue
        if await apply(content):
            applied = content


class RolloutFile:
    """Applies the file's percentage, and its share of shadow calls, each time that the content is new."""

    def __init__(self, flag: RolloutFlag, name: str) -> None:
        """Takes the `name` that stands in the history as the author."""
        self._flag = flag
        self._name = name
        self._log_once = LogOnce("rollout file ignored; the last good value stays", file=name)
        self._first_look = asyncio.Event()

    async def follow(self, contents: AsyncIterator[bytes | OSError]) -> None:
        """Applies each new content, for as long as there are any to come."""
        await follow(self._noted(contents), self._apply, self._log_once)

    async def first_look(self) -> None:
        """Waits until the content that the file has at the start is applied or refused: no call is routed before."""
        try:
            async with asyncio.timeout(FIRST_LOOK_TIMEOUT_S):
                await self._first_look.wait()
        except TimeoutError:
            self._log_once.warn(f"it was not read within {FIRST_LOOK_TIMEOUT_S:g} s")

    async def _noted(self, contents: AsyncIterator[bytes | OSError]) -> AsyncIterator[bytes | OSError]:
        async for content in contents:
            yield content
            self._first_look.set()  # the next content is asked for once this one is dealt with

    async def _apply(self, content: bytes) -> bool:
        """Applies `content`; returns False if that must be tried again."""
        epoch = self._flag.epoch  # a rollback while the file is parsed comes after the file's wish
        try:
            await self._flag.apply(await asyncio.to_thread(parse, content, self._name), asked_in=epoch)
        except InvalidRolloutFile as error:
            self._log_once.warn(str(error))
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            return False
        else:
            self._log_once.clear()
        return True
