"""The main path: decides the version of a call, hands it to that version's pool, records what happened."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Final

from pools.calls import Call, Result
from pools.errors import ExecutionError, Withdrawn
from pools.protocol import Pool
from poolshift.worker.lm import LMUsage
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import Evidence, Example, LiveJudge
from routing.rollout.model import Rollout
from routing.split import bucket
from routing.telemetry.call_trace import CANCELLED, CallTrace
from routing.telemetry.recorder import OK, Recorder
from routing.versions import Decision, Reason, Version

_FORCED: Final = {version: Decision(version, Reason.FORCED) for version in Version}
_PINNED: Final = {version: Decision(version, Reason.PINNED) for version in Version}
_CANARY: Final = Decision(Version.V2, Reason.SPLIT)
_BASELINE: Final = Decision(Version.V1, Reason.SPLIT)


class Route:
    """Where one call goes. Kept for as long as the call waits, since a change of the rollout may send it elsewhere."""

    def __init__(self, bucket: int, forced: Version | None, decision: Decision, trace: CallTrace | None = None) -> None:
        self.bucket = bucket
        self.forced = forced
        self.decision = decision
        self.trace = trace
        self.evidence: Evidence | None = None
        """What the judge knows of the call, if it is organic and both versions get calls."""

    @property
    def trace_id(self) -> str | None:
        """The trace's, where the call is sampled."""
        return None if self.trace is None else self.trace.trace_id


class Router:
    """Knows the pools by version and nothing of what is inside them."""

    def __init__(
        self,
        pools: Mapping[Version, Pool],
        flag: RolloutFlag,
        recorder: Recorder,
        *,
        judge: LiveJudge,
        pin: Version | None,
        salt: str,
    ) -> None:
        self._pools = pools
        self._flag = flag
        self._recorder = recorder
        self._judge = judge
        self._pin = pin
        self._salt = salt
        self._only = next(iter(pools)) if len(pools) == 1 else None
        self._routes: dict[Call, Route] = {}
        self._has_canary = flag.threshold > 0
        self._rolled_back_at: float | None = None
        self._last_canary_dispatch = 0.0
        flag.listen(self._requeue)

    def route(
        self,
        session_id: str | None,
        canary_key: str | None = None,
        forced: Version | None = None,
        trace: CallTrace | None = None,
    ) -> Route:
        """Decides the version of a call.

        The pin comes first, or the only pool there is, then `forced`, then the split by the session's id, else by
        `canary_key`, else by chance.
        """
        began = time.time_ns() if trace is not None else 0
        key = session_id or canary_key
        number = random.getrandbits(32) if key is None else bucket(self._salt, key)
        route = Route(number, forced, self._decide(number, forced), trace)
        self._recorder.decided(route.decision)
        if self._judge.w > 0.0 and route.decision.reason is Reason.SPLIT:
            route.evidence = self._judge.assigned(key, is_canary=route.decision is _CANARY)
        if trace is not None:
            trace.routed(route.decision, self._flag.current.revision, began)
        return route

    async def execute(self, route: Route, call: Call, operation: str = "execute") -> Result:
        """Runs `call` where `route` says, or where the rollout sends it while it waits.

        Raises:
            ExecutionError: one of `poolshift.worker.errors`.
        """
        began = time.perf_counter()
        self._routes[call] = route
        try:
            result = None
            while result is None:
                if route.trace is not None:
                    route.trace.queue_begins()
                try:
                    result = await self._pools[route.decision.version].execute(call)
                except Withdrawn:
                    self._route_again(route)
        except ExecutionError as error:
            self._failed(route, call, operation, began, error)
            raise
        except asyncio.CancelledError:
            if route.trace is not None:
                route.trace.failed(CANCELLED)
            raise
        finally:
            del self._routes[call]
            if route.decision is _CANARY:
                self._last_canary_dispatch = max(self._last_canary_dispatch, call.dispatched_at)
        seconds = time.perf_counter() - began
        self._recorder.answered(route.decision.version, operation, OK, seconds, call.queued_s, route.trace_id)
        self._record_tokens(route, call, result.usage)
        if route.evidence is not None:
            self._judge_end(route, call, OK, seconds, "")
        return result

    def _failed(self, route: Route, call: Call, operation: str, began: float, error: ExecutionError) -> None:
        self.record_failure(route, error.code, error.category, operation, began, call.queued_s)
        if route.evidence is not None:
            self._judge_end(route, call, error.code, time.perf_counter() - began, error.detail)
        self._record_tokens(route, call, error.usage)
        if route.trace is not None:
            route.trace.failed(error.code)

    def record_failure(
        self, route: Route, code: str, category: str, operation: str, began: float, queued_s: float = 0.0
    ) -> None:
        """A routed call failed, in its pool or before it got there; `began` is by `time.perf_counter`."""
        version = route.decision.version
        seconds = time.perf_counter() - began
        self._recorder.answered(version, operation, code, seconds, queued_s, route.trace_id)
        self._recorder.failed(version, code, category)

    def _judge_end(self, route: Route, call: Call, outcome: str, seconds: float, detail: str) -> None:
        """Tells the judge how an organic call ended.

        The wait for a worker is left out of its time: that measures the pool's size, not the version.
        """
        evidence = route.evidence
        assert evidence is not None
        version = route.decision.version
        ms = 1000 * (seconds - call.queued_s - call.backpressure_s)
        guardrail = self._judge.ended(evidence, version, call.program.id, outcome, ms, is_cold=call.is_cold)
        if guardrail is not None:
            self._judge.keep_example(guardrail, Example(call.execution_id, route.trace_id, outcome, detail))

    def _record_tokens(self, route: Route, call: Call, usage: LMUsage | None) -> None:
        if call.lm is not None and usage is not None:
            self._recorder.lm_used(route.decision.version, call.lm.model, usage)

    def _route_again(self, route: Route) -> None:
        version = route.decision.version
        route.decision = self._decide(route.bucket, route.forced)
        if route.decision.version is not version:
            route.evidence = None  # no version is to be blamed for what the other one began
        self._recorder.decided(route.decision)
        if route.trace is not None:
            route.trace.routed(route.decision, self._flag.current.revision, time.time_ns())

    def _decide(self, number: int, forced: Version | None) -> Decision:
        if self._pin is not None:
            return _PINNED[self._pin]
        if self._only is not None:
            return _PINNED[self._only]
        if forced is not None:
            return _FORCED[forced]
        return _CANARY if number < self._flag.threshold else _BASELINE

    def replay_running(self) -> int:
        """Idempotent calls that run on V2 and would not be sent there any more run on V1 instead; how many these are.

        A stream whose client has seen events of this run is left alone.
        """

        def is_replayable(call: Call) -> bool:
            return call.is_repeatable and self._must_requeue(call, Version.V2)

        return self._pools[Version.V2].withdraw_running(is_replayable)

    @property
    def rollback_seconds(self) -> float:
        """From the last fall to 0 % until the split's last dispatch to V2, in seconds; 0 where none came after it."""
        if self._rolled_back_at is None:
            return 0.0
        return max(0.0, self._last_canary_dispatch - self._rolled_back_at)

    def _requeue(self, rollout: Rollout) -> None:
        """Calls that wait in a queue which the new rollout would not have sent them to move over: none is lost."""
        has_fallen = rollout.canary_basis_points == 0 and self._has_canary
        self._has_canary = rollout.canary_basis_points > 0
        if has_fallen:
            self._rolled_back_at = time.perf_counter()
        for version, pool in self._pools.items():
            pool.withdraw(lambda call, version=version: self._must_requeue(call, version))  # type: ignore[misc]

    def _must_requeue(self, call: Call, version: Version) -> bool:
        route = self._routes.get(call)
        return route is not None and self._decide(route.bucket, route.forced).version is not version
