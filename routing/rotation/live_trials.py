"""Counts the calls of the V2 that runs, and keeps how its ramps end, in the store once a second."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from analysis.guardrails import GUARDRAIL_OF
from analysis.verdict import Say, Verdict
from common.log_once import LogOnce
from pools.calls import Program
from routing.errors import StoreUnavailable
from routing.rollout.controller import RampController
from routing.rollout.flag import RolloutFlag
from routing.rollout.model import Rollout, Source, voids_earlier_changes
from routing.rollout.ramp import Ramp, RampState
from routing.rotation.trial import NO_CALLS, Calls, End, Outcome, Trial, TrialRecord, TrialStore, trial_of
from routing.telemetry.recorder import OK, Recorder
from routing.versions import Reason, Version

FLUSH_S: Final = 1.0
"""Time between two writes, in seconds."""
_ENDS_AGAINST: Final = {RampState.ROLLED_BACK: Outcome.ROLLED_BACK, RampState.ABORTED: Outcome.ABORTED}


def calls_of_v2(recorder: Recorder, *, is_lm_on_trial: bool) -> Calls:
    """Counts V2's calls since the start of the service.

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
        own: Callable[[], Sequence[Program]],
        store: TrialStore,
        ramp: RampController,
        flag: RolloutFlag,
        *,
        min_calls: int,
    ) -> None:
        """Asks for the V2 that runs: `identity` for its identity, `calls` for its calls since the start.

        `own` returns the programs of which it has a definition of its own, with that definition.
        """
        self._identify = identity
        self._calls = calls
        self._own = own
        self._store = store
        self._ramp = ramp
        self._flag = flag
        self._min_calls = min_calls
        self._identity: str | None = None
        self._counted = calls()
        self._told: set[Program] = set()
        """The own definitions that have served a call, as the store knows."""
        self._ends = 0
        """The number of ends against this V2 when it began to be counted."""
        self._has_ended = False
        """Tells that there may be another end against this V2, after which its counts begin again."""
        self._runs: list[tuple[Ramp, datetime]] = []
        """Ramps as they began or ended, the oldest first, which the store does not know yet."""
        self._rollback: End | None = None
        """A rollback that the store does not know yet; with a `run`, its ramp tells more."""
        self._has_share_since = flag.current.canary_basis_points > 0
        """Tells if V2 has had a share since the last ramp ended against it."""
        self._stale: Verdict | None = None
        """The judge's word on the V2 of before, which it repeats until there is other evidence."""
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._log_once = LogOnce("the trial of V2 cannot be written")
        if _outcome(ramp.ramp) is not None:  # the service may have died before this was written
            self._runs.append((ramp.ramp, ramp.since))
        ramp.when_changed = self._pools_changed
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
        record = self._in_the_ramps_words(await self._store.find(self._identity))
        tried = frozenset() if record is None else record.tried
        untried = sorted(program.id for program in self._own() if program.key not in tried)
        return trial_of(record, self._standing_verdict(), self._min_calls, untried)

    def _standing_verdict(self) -> Verdict | None:
        """Returns the judge's verdict, unless a person has overruled it, or it is of the V2 of before."""
        verdict = self._ramp.verdict()
        is_overruled = verdict.action is Say.PAUSE and verdict.guardrail in self._ramp.ramp.acknowledged
        return None if is_overruled or verdict == self._stale else verdict

    def _in_the_ramps_words(self, record: TrialRecord | None) -> TrialRecord | None:
        """Tells the end of the ramp as the controller does, which knows it first and best."""
        ramp = self._ramp.ramp
        outcome = _ENDS_AGAINST.get(ramp.state)
        if record is None or record.against is None or record.against.run != ramp.run or outcome is None:
            return record
        if record.against.outcome is outcome:
            return record
        return replace(record, against=End(outcome, ramp.by, ramp.reason, self._ramp.since, ramp.run))

    # --- what happens

    async def _pools_changed(self) -> None:
        """Counts the calls of the new V2 from its first one on."""
        with suppress(StoreUnavailable):
            await self.flush()

    def _ramp_changed(self, before: Ramp, ramp: Ramp) -> None:
        has_ended = _outcome(ramp) is not None and ramp.state is not before.state
        if ramp.state.is_under_way or has_ended:
            self._runs.append((ramp, self._ramp.since))
            self._wake.set()
        if has_ended and ramp.state in _ENDS_AGAINST:
            self._has_share_since = False

    def _flag_changed(self, rollout: Rollout) -> None:
        if self._flag.is_cut_off:
            return
        if rollout.source is Source.ROTATION:  # it may take one back, which is an end against V2
            self._has_ended = True
        if rollout.canary_basis_points:
            self._has_share_since = True
        elif rollout.previous_basis_points and voids_earlier_changes(rollout.canary_basis_points, rollout.source):
            run = None if self._has_share_since else self._ramp.ramp.run
            outcome = Outcome.ABORTED if rollout.source is Source.ABORT else Outcome.ROLLED_BACK
            self._rollback = End(outcome, rollout.updated_by, rollout.reason, rollout.updated_at, run)
            self._wake.set()

    # --- writing

    async def flush(self) -> None:
        """Writes what the store does not know. What cannot be written now is written later. Raises StoreUnavailable."""
        async with self._flushing:
            before, identity = self._identity, await self._identify()
            if before == identity is not None:
                await self._add(identity)
            else:
                await self._begin_to_count(identity)  # what came before may be another V2's
                self._stale = None if before is None else self._ramp.verdict()
                self._identity = identity
            await self._write_rollback(before or identity)
            await self._write_runs(identity)
            if self._has_ended:
                self._has_ended = False
                await self._begin_to_count(identity)

    async def _add(self, identity: str) -> None:
        calls, tried = self._calls(), {one for one in self._own() if not one.is_untried} - self._told
        # A forced call counts when it begins, the others at the end.
        served = max(0, calls.served - self._counted.served)
        more = Calls(served, calls.faults - self._counted.faults)
        if more == NO_CALLS and not tried:
            return
        ends = await self._store.add(identity, more, [one.key for one in tried], ends=self._ends)
        if ends != self._ends:  # an end against V2 has come meanwhile, and these calls may have come before it
            self._has_ended = True
            return
        self._told |= tried
        self._counted = Calls(self._counted.served + served, calls.faults)

    async def _begin_to_count(self, identity: str | None) -> None:
        """Counts the calls of a V2 from now on."""
        record = None if identity is None else await self._store.find(identity)
        self._counted, self._ends = self._calls(), 0 if record is None else record.ends
        self._told.clear()
        for program in self._own():
            program.is_untried = True

    async def _write_rollback(self, identity: str | None) -> None:
        """Writes a rollback of V2, unless it ends a ramp, whose own end says more.

        Another replica may have ended the ramp, of which this one knows the percentage alone so far.
        """
        if self._rollback is None or identity is None:
            return
        rollback = self._rollback
        record = await self._store.find(identity)
        end = None if record is None else record.end
        is_of_ramp = end is not None and (end.outcome is Outcome.RAMPING or end.run == rollback.run is not None)
        if not is_of_ramp:
            await self._store.end(identity, replace(rollback, run=None))
            self._has_ended = True
        if self._rollback is rollback:
            self._rollback = None

    async def _write_runs(self, identity: str | None) -> None:
        while self._runs:
            ramp, at = self._runs[0]
            outcome = _outcome(ramp)
            if outcome is not None:
                await self._store.end_run(ramp.run, End(outcome, ramp.by, ramp.reason, at, ramp.run))
                self._has_ended = self._has_ended or ramp.state in _ENDS_AGAINST
            elif identity is not None:
                await self._store.begin_run(identity, End(Outcome.RAMPING, ramp.by, ramp.reason, at, ramp.run))
            self._runs.pop(0)


def _outcome(ramp: Ramp) -> Outcome | None:
    """Returns the outcome of a ramp that has ended."""
    if ramp.state is RampState.PROMOTED:
        return Outcome.PROMOTED if ramp.lacks_evidence or ramp.is_alarmed else Outcome.PROVEN
    return _ENDS_AGAINST.get(ramp.state)
