"""Counts the calls of the V2 that runs, and keeps how its ramps end, in the store once a second."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from analysis.guardrails import GUARDRAIL_OF
from analysis.verdict import Say, Verdict
from common.log_once import LogOnce
from routing.errors import StoreUnavailable
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Rollout, voids_earlier_changes
from routing.rollout.ramp import Ramp, RampState
from routing.rotation.trial import End, Outcome, Trial, TrialRecord, TrialStore, trial_of
from routing.telemetry.recorder import OK, Recorder
from routing.versions import Reason, Version

FLUSH_S: Final = 1.0
"""Time between two writes, in seconds."""
_ENDS: Final = {
    RampState.PROMOTED: Outcome.PROMOTED,
    RampState.ROLLED_BACK: Outcome.ROLLED_BACK,
    RampState.ABORTED: Outcome.ABORTED,
}


class Calls(NamedTuple):
    """Calls of clients on V2 since the start of the service."""

    served: int
    faults: int


def calls_of_v2(recorder: Recorder, *, is_lm_on_trial: bool) -> Calls:
    """Counts V2's calls, but for those that an admin's header has sent there.

    The faults are those that judge a version. Failures of the LM are among them if V2 has another one than V1.
    """
    outcomes, again = recorder.outcomes(Version.V2), recorder.run_again[Version.V2]
    forced = recorder.decisions().get((Version.V2, Reason.FORCED), 0)
    judged = [code for code, guardrail in GUARDRAIL_OF.items() if is_lm_on_trial or guardrail != "upstream"]
    return Calls(outcomes.get(OK, 0) - forced - again, sum(outcomes.get(code, 0) for code in judged) + again)


class LiveTrials:
    """Implements `routing.rotation.trial.Trials`."""

    def __init__(
        self,
        identity: Callable[[], Awaitable[str | None]],
        calls: Callable[[], Calls],
        store: TrialStore,
        ramp: RampController,
        flag: RolloutFlag,
        *,
        min_calls: int,
    ) -> None:
        """Asks `identity` for the identity of the V2 that runs, and `calls` for the calls since the start."""
        self._identify = identity
        self._calls = calls
        self._store = store
        self._ramp = ramp
        self._flag = flag
        self._min_calls = min_calls
        self._identity: str | None = None
        self._counted = calls()
        self._runs: list[tuple[Ramp, datetime]] = []
        """Ramps as they began or ended, the oldest first, which the store does not know yet."""
        self._rollback: End | None = None
        """A rollback that the store does not know yet."""
        self._stale: Verdict | None = None
        """The judge's word on the V2 of before, which it repeats until there is other evidence."""
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._log_once = LogOnce("the trial of V2 cannot be written")
        if ramp.ramp.state in _ENDS:  # the service may have died before this was written
            self._runs.append((ramp.ramp, ramp.since))
        ramp.listen(self._ramp_changed)
        flag.listen(self._flag_changed)

    async def run(self) -> None:
        """Writes until it is cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.flush()
            except StoreUnavailable as error:
                self._log_once.warn(str(error))
            else:
                self._log_once.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._wake.wait()

    async def aclose(self) -> None:
        """Writes a last time."""
        with suppress(StoreUnavailable):
            await self.flush()

    async def identity(self) -> str | None:
        return await self._identify()

    async def of_v2(self) -> Trial:
        await self.flush()
        if self._identity is None:
            return Trial(is_proven=False, told="V2's interpreter cannot run workers")
        record = await self._store.find(self._identity)
        return trial_of(self._as_ended(record), self._standing_verdict(), self._min_calls)

    def _standing_verdict(self) -> Verdict | None:
        """Returns the judge's verdict, unless a person has overruled it, or it is of the V2 of before."""
        verdict = self._ramp.verdict()
        is_overruled = verdict.action is Say.PAUSE and verdict.guardrail in self._ramp.ramp.acknowledged
        return None if is_overruled or verdict == self._stale else verdict

    def _as_ended(self, record: TrialRecord | None) -> TrialRecord | None:
        """Corrects the end of the ramp that the controller has, which knows it first and best."""
        ramp = self._ramp.ramp
        if record is None or record.end is None or record.end.run != ramp.run or ramp.state not in _ENDS:
            return record
        outcome = _ENDS[ramp.state]
        if record.end.outcome is outcome or record.end.outcome is Outcome.UNROTATED:
            return record
        return replace(record, end=End(outcome, ramp.by, ramp.reason, self._ramp.since, ramp.run))

    # --- what happens

    def _ramp_changed(self, before: Ramp, ramp: Ramp) -> None:
        if ramp.state.is_under_way or (ramp.state in _ENDS and ramp.state is not before.state):
            self._runs.append((ramp, self._ramp.since))
            self._wake.set()

    def _flag_changed(self, rollout: Rollout) -> None:
        if self._flag.is_cut_off or not rollout.previous_basis_points:
            return
        if voids_earlier_changes(rollout.canary_basis_points, rollout.source):
            self._rollback = End(Outcome.ROLLED_BACK, rollout.updated_by, rollout.reason, rollout.updated_at)
            self._wake.set()

    # --- writing

    async def flush(self) -> None:
        """Writes what the store does not know. What cannot be written now is written later. Raises StoreUnavailable."""
        async with self._flushing:
            before, self._identity = self._identity, await self._identify()
            calls = self._calls()
            if before == self._identity is not None:
                await self._add(self._identity, calls)
            else:
                self._counted = calls  # they may have been another V2's
                self._stale = None if before is None else self._ramp.verdict()
            await self._write_rollback(before or self._identity)
            await self._write_runs(self._identity)

    async def _add(self, identity: str, calls: Calls) -> None:
        served = max(
            0, calls.served - self._counted.served
        )  # a forced call counts when it begins, the others at the end
        faults = calls.faults - self._counted.faults
        if served or faults:
            await self._store.add(identity, served, faults)
            self._counted = Calls(self._counted.served + served, calls.faults)

    async def _write_rollback(self, identity: str | None) -> None:
        """Writes a rollback of V2, unless it is that of the ramp, whose end says more."""
        if self._rollback is None or identity is None:
            return
        rollback, ramp = self._rollback, self._ramp.ramp
        record = await self._store.find(identity)
        run = None if record is None or record.end is None else record.end.run
        is_of_ramp = run == ramp.run and (ramp.state.is_under_way or ramp.state in _ENDS)
        if not is_of_ramp:
            await self._store.end(identity, replace(rollback, run=run))
        if self._rollback is rollback:
            self._rollback = None

    async def _write_runs(self, identity: str | None) -> None:
        while self._runs:
            ramp, at = self._runs[0]
            outcome = _ENDS.get(ramp.state, Outcome.RAMPING)
            end = End(outcome, ramp.by, ramp.reason, at, ramp.run)
            if outcome is not Outcome.RAMPING:
                await self._store.end_run(ramp.run, end)
            elif identity is not None:
                await self._store.begin_run(identity, end)
            self._runs.pop(0)
