"""`ROLLOUT_PLAN_FILE`: the plan from a mounted file. A broken one leaves the last good plan; none disturbs a ramp."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from common.log_once import LogOnce
from routing.errors import InvalidPlan, PlanConflict, StoreUnavailable
from routing.rollout.controller import RampController
from routing.rollout.file import follow
from routing.rollout.log import RolloutLog
from routing.rollout.model import Source
from routing.rollout.plan import Plan, parse_plan


class PlanFile:
    """Sets the plan that the file has, each time that the file says something new. Starts nothing."""

    def __init__(self, ramp: RampController, log: RolloutLog, name: str) -> None:
        """Names the file as the author of the plan; `log` remembers what the file said before a restart."""
        self._ramp = ramp
        self._log = log
        self._name = name
        self._log_once = LogOnce("plan file ignored; the last good plan stays", file=name)

    async def follow(self, contents: AsyncIterator[bytes | OSError]) -> None:
        """Follows the file for as long as `contents` go on."""
        await follow(contents, self._apply, self._log_once)

    async def _apply(self, content: bytes) -> bool:
        """Takes a content up; tells if it is settled, so that it need not be looked at again."""
        try:
            plan = await asyncio.to_thread(parse_plan, content)
            await self._set(plan)
        except InvalidPlan as error:
            self._log_once.warn(str(error))
        except PlanConflict as error:
            self._log_once.warn(f"{error}; the file is taken up when that has ended")
            return False
        except StoreUnavailable as error:
            self._log_once.warn(str(error))
            return False
        else:
            self._log_once.clear()
        return True

    async def _set(self, plan: Plan) -> None:
        """Sets the plan unless the file said the same before: a restart undoes no plan that a person has set since."""
        says = hashlib.sha256(plan.model_dump_json(exclude_unset=True).encode()).hexdigest()
        if await self._log.last_seen(Source.PLAN) == says:
            return
        if self._ramp.ramp.plan != plan:
            await self._change(plan)
        await self._log.saw(Source.PLAN, says)

    async def _change(self, plan: Plan) -> None:
        try:
            await self._ramp.set_plan(plan, self._name)
        except PlanConflict:
            # Another replica may have taken the same file up at the same moment.
            if self._ramp.ramp.plan != plan:
                raise
