"""The main path: decides the version of a call, hands the call to that version's pool, records what happened."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import structlog

from pools.calls import Call, OnOutcome, Result
from pools.errors import ExecutionError, Withdrawn, WorkerCrashed
from pools.protocol import Pool
from poolshift.worker.lm import LMSettings, LMUsage
from routing.catalog.lm_costs import LMCosts
from routing.rollout.flag import RolloutFlag
from routing.rollout.live_judge import MOVED, End, Evidence, LiveJudge
from routing.rollout.model import Rollout
from routing.rollout.v2_watch import V2Watch
from routing.shadow.tap import ShadowTap
from routing.split import bucket
from routing.telemetry.call_trace import CANCELLED, CallTrace
from routing.telemetry.recorder import NOT_ORGANIC, OK, Recorder
from routing.versions import Decision, Reason, Version

_perf_counter: Final = time.perf_counter
_getrandbits: Final = random.getrandbits
_FORCED: Final = {version: Decision(version, Reason.FORCED) for version in Version}
_PINNED: Final = {version: Decision(version, Reason.PINNED) for version in Version}
_CANARY: Final = Decision(Version.V2, Reason.SPLIT)
_SPLIT: Final = Reason.SPLIT
_BASELINE: Final = Decision(Version.V1, Reason.SPLIT)

_log = structlog.stdlib.get_logger("poolshift.rollout")


class Route:
    """The version of one call, and the reason for it. A change of the rollout may change the `decision`.

    Once the call runs, `decision` names the version that runs it, and after its end the version that ran it.
    """

    def __init__(self, bucket: int, forced: Version | None, decision: Decision, trace: CallTrace | None = None) -> None:
        self.bucket = bucket
        self.forced = forced
        self.decision = decision
        self.trace = trace
        self.evidence: Evidence | None = None
        """The judge's part of the call, if it is organic and both versions get calls."""

    @property
    def trace_id(self) -> str | None:
        """The trace's id if the call is sampled."""
        return None if self.trace is None else self.trace.trace_id


class Run:
    """A call on its way through the router, which its pool tells how it has ended."""

    def __init__(
        self, router: "Router", route: Route, call: Call, operation: str, began: float, on_end: OnOutcome
    ) -> None:
        """`began` is by `time.perf_counter`."""
        self._router = router
        self.route = route
        self.call = call
        self.operation = operation
        self.began = began
        self.on_end = on_end
        self.is_over = False
        """Set once the call has ended, or nobody waits for it any more."""

    def __call__(self, outcome: Result | Exception) -> None:
        """Takes the outcome of the call in its pool."""
        self._router.ran(self, outcome)


class Router:
    """Decides between the pools, of which it knows the version and nothing inside."""

    def __init__(
        self,
        pools: Mapping[Version, Pool],
        flag: RolloutFlag,
        recorder: Recorder,
        costs: LMCosts | None = None,
        *,
        judge: LiveJudge,
        pin: Version | None,
        salt: str,
    ) -> None:
        """Without `costs`, no LM has a price."""
        self._pools = pools
        self._flag = flag
        self._recorder = recorder
        self._judge = judge
        self._pin = pin
        self._salt = salt
        self._costs = LMCosts(None) if costs is None else costs
        self._only = next(iter(pools)) if len(pools) == 1 else None
        self._routes: dict[Call, Route] = {}
        self._has_canary = flag.threshold > 0
        self._rolled_back_at: float | None = None
        self._last_canary_dispatch = 0.0
        self._is_diverting = False
        self.tap: ShadowTap | None = None
        """The listener to the ends of calls, while there is any."""
        self.watch = V2Watch(pin, has_v1=Version.V1 in pools)
        """Counts V2's calls while it has all of them."""
        self.hear: Callable[[], None] | None = None
        """Brings into force what other replicas of the machine have changed, if there are any."""
        flag.listen(self._requeue)
        flag.listen(self.watch.rollout_changed)
        self.watch.rollout_changed(flag.current)
        if self._only is None:
            pools[Version.V2].when_down(self._requeue_diverted)

    def route(
        self,
        session_id: str | None,
        canary_key: str | None = None,
        forced: Version | None = None,
        trace: CallTrace | None = None,
    ) -> Route:
        """Decides the version of a call.

        The pin, or the only pool, comes first; then `forced`; then the split. The split goes by the session's id, else
        by `canary_key`, else by chance.
        """
        began = time.time_ns() if trace is not None else 0
        key = session_id or canary_key
        number = _getrandbits(32) if key is None else bucket(self._salt, key)
        route = Route(number, forced, self._decide(number, forced), trace)
        self._recorder.decided(route.decision)
        if self._judge.w > 0.0 and route.decision.reason is _SPLIT and not self._diverts():
            route.evidence = self._judge.assigned(key, route.trace_id, is_canary=route.decision is _CANARY)
        if trace is not None:
            trace.routed(route.decision, self._flag.current.revision, began)
        return route

    def synthetic(self, forced: Version, trace: CallTrace | None) -> Route:
        """Returns the route of a test's call, which counts as nobody's decision."""
        route = Route(0, forced, self._decide(0, forced), trace)
        if trace is not None:
            trace.routed(route.decision, self._flag.current.revision, time.time_ns())
        return route

    async def execute(self, route: Route, call: Call, operation: str = "execute") -> Result:
        """Runs `call` as `begin` does, and waits for its end.

        Raises:
            ExecutionError: one of `poolshift.worker.errors` and `pools.errors`.
        """
        end: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        run = self.begin(route, call, operation, partial(_settle, end))
        try:
            return await end
        except asyncio.CancelledError:
            self.cancel(run)
            raise

    def begin(self, route: Route, call: Call, operation: str, on_end: OnOutcome) -> "Run":
        """Runs `call` on the version of `route`, or on the version that the rollout requires while the call waits.

        A repeatable call whose worker dies is run once more, on the version that the rollout requires by then. Calls
        `on_end` once, with the result or the error, which may be before this returns.
        """
        run = Run(self, route, call, operation, _perf_counter(), on_end)
        self._routes[call] = route
        try:
            if self.hear is not None:
                self.hear()
            if route.decision is _CANARY and route.bucket >= self._flag.threshold:
                self._route_again(route, call)  # a rollback came between the decision and this moment
            if route.evidence is not None:
                self._judge.began(route.evidence, call)
            self._start(run)
        except Exception as error:
            self._end(run, error)
        return run

    def cancel(self, run: "Run") -> None:
        """Ends a run that nobody waits for any more; nothing happens if it has ended."""
        if run.is_over:
            return
        run.is_over = True
        self._pools[run.route.decision.version].abandon(run.call)
        self._forget(run)
        if run.route.trace is not None:
            run.route.trace.failed(CANCELLED)
        if run.route.evidence is not None:
            self._judge.left(run.route.evidence)

    def _start(self, run: "Run") -> None:
        """Gives the call to the pool of its route. Raises ExecutionError if that does not take it."""
        route = run.route
        if route.trace is not None:
            route.trace.queue_begins()
        self._pools[route.decision.version].begin(run.call, run)

    def ran(self, run: "Run", outcome: Result | Exception) -> None:
        """Ends a call with what has come of its run, or starts it again elsewhere."""
        if run.is_over:
            return
        if isinstance(outcome, Result) or not isinstance(outcome, (Withdrawn, WorkerCrashed)):
            self._end(run, outcome)
            return
        try:
            self._send_elsewhere(run.route, run.call, outcome)
            self._start(run)
        except Exception as error:
            self._end(run, error)

    def _end(self, run: "Run", outcome: Result | Exception) -> None:
        run.is_over = True
        self._forget(run)
        try:
            if isinstance(outcome, Result):
                self._succeeded(run.route, run.call, run.operation, run.began, outcome)
            elif isinstance(outcome, ExecutionError):
                self._failed(run.route, run.call, run.operation, run.began, outcome)
        finally:
            run.on_end(outcome)

    def _forget(self, run: "Run") -> None:
        del self._routes[run.call]
        if run.route.decision is _CANARY:
            self._last_canary_dispatch = max(self._last_canary_dispatch, run.call.dispatched_at)

    def _succeeded(self, route: Route, call: Call, operation: str, began: float, result: Result) -> None:
        now = result.told_at or _perf_counter()
        seconds = now - began
        self._recorder.answered(route.decision.version, operation, OK, seconds, call.queued_s, route.trace_id)
        if call.program.is_untried and operation not in NOT_ORGANIC and route.decision.reason is not Reason.FORCED:
            call.program.is_untried = False
        if call.program.has_limits and operation not in NOT_ORGANIC:
            self._record_program(route, call, OK, seconds)
        cost = 0.0 if call.lm is None else self._cost_of(route, call.lm, result.usage)
        if route.evidence is not None:
            self._judge_end(route, call, OK, seconds, "", cost, now)
        elif self.watch.is_on:
            self.watch.ended(route.decision, operation, call, OK)
        if self.tap is not None:
            self.tap.call_ended(route.decision, call, call.session_id, route.evidence, result, None, route.trace)

    def _failed(self, route: Route, call: Call, operation: str, began: float, error: ExecutionError) -> None:
        self.record_failure(route, error.code, error.category, operation, began, call.queued_s)
        if call.program.has_limits and operation not in NOT_ORGANIC:
            self._record_program(route, call, error.code, _perf_counter() - began)
        cost = 0.0 if call.lm is None else self._cost_of(route, call.lm, error.usage)
        if route.evidence is not None:
            now = _perf_counter()
            self._judge_end(route, call, error.code, now - began, error.detail, cost, now)
        elif self.watch.is_on:
            self.watch.ended(route.decision, operation, call, error.code)
        if self.tap is not None:
            self.tap.call_ended(route.decision, call, call.session_id, route.evidence, None, error.code, route.trace)
        if route.trace is not None:
            route.trace.failed(error.code)

    def record_failure(
        self, route: Route, code: str, category: str, operation: str, began: float, queued_s: float = 0.0
    ) -> None:
        """Records that a routed call failed, in its pool or before; `began` is by `time.perf_counter`."""
        version = route.decision.version
        seconds = _perf_counter() - began
        self._recorder.answered(version, operation, code, seconds, queued_s, route.trace_id)
        if operation not in NOT_ORGANIC:
            self._recorder.failed(version, code, category)

    def _judge_end(
        self, route: Route, call: Call, outcome: str, seconds: float, detail: str, cost: float | None, now: float
    ) -> None:
        """Tells the judge how an organic call ended.

        The wait for a worker is left out of its time: that measures the pool's size, not the version. So is the time in
        which the worker loaded the program. On Linux `time.perf_counter`, of which `now` is, is `time.monotonic`.
        """
        assert route.evidence is not None
        ms = 1000 * (seconds - call.queued_s - call.load_s - call.backpressure_s)
        program, version = call.program.id, route.decision.version
        self._judge.ended(
            route.evidence,
            End(call.execution_id, program, version, outcome, ms, call.is_cold, cost, detail, now),
        )

    def _record_program(self, route: Route, call: Call, outcome: str, seconds: float) -> None:
        """Counts a call for its program, if that has metrics of its own."""
        self._recorder.programs.answered(call.program, route.decision.version, outcome, seconds, route.trace_id)

    def _cost_of(self, route: Route, lm: LMSettings, usage: LMUsage | None) -> float | None:
        """Returns the cost of a call's tokens for the judge, and counts it; None if the model has no price."""
        if usage is None:
            return 0.0
        cost = self._costs.of(lm, usage)
        self._recorder.lm_used(route.decision.version, lm.model, usage, cost)
        return cost

    def _send_elsewhere(self, route: Route, call: Call, error: Withdrawn | WorkerCrashed) -> None:
        """Routes a call again that a pool gave back or whose worker died; raises `error` if the call may not run again.

        A call has one retry, however often it moves.
        """
        if isinstance(error, WorkerCrashed):
            if call.is_retry or not call.is_repeatable:
                raise error
            call.is_retry = True
            self._recorder.run_again[route.decision.version] += 1
            if route.evidence is not None:
                self._judge.attempt_failed(route.evidence, call, route.decision.version, error.code, error.detail)
        self._route_again(route, call)

    def _route_again(self, route: Route, call: Call) -> None:
        decision = self._decide(route.bucket, route.forced)
        if decision is route.decision:
            return  # a retry on the same version
        if route.decision is _CANARY:
            self._last_canary_dispatch = max(self._last_canary_dispatch, call.dispatched_at)
        if route.evidence is not None:
            self._judge_end(route, call, MOVED, 0.0, "", 0.0, _perf_counter())
            route.evidence = None  # no version is to be blamed for what the other one began
        route.decision = decision
        self._recorder.decided(decision)
        if route.trace is not None:
            route.trace.routed(decision, self._flag.current.revision, time.time_ns())
        if call.choose is not None:
            call.choose(call, decision.version)

    def _decide(self, number: int, forced: Version | None) -> Decision:
        if self._pin is not None:
            return _PINNED[self._pin]
        if self._only is not None:
            return _PINNED[self._only]
        if forced is not None:
            return _FORCED[forced]
        if number >= self._flag.threshold:
            return _BASELINE
        if self._diverts():
            return self._diverted()
        if self._is_diverting:
            self._is_diverting = False
            _log.info("V2 has workers again and gets its share")
        return _CANARY

    def _diverts(self) -> bool:
        """Tells if V2's share goes to V1: V2 is down, and V1 is better off.

        No call is evidence then. V1's own calls are none either, since V2 has no chance to get one.
        """
        return self._pools[Version.V2].is_down and not self._pools[Version.V1].is_down

    def _diverted(self) -> Decision:
        """Gives a call of V2's share to V1."""
        if not self._is_diverting:
            self._is_diverting = True
            _log.error("V2 has no worker and cannot start one; its share goes to V1")
        return _BASELINE

    def replay_running(self) -> None:
        """Takes idempotent calls that run on V2, and belong on V1 by now, from their workers and runs them on V1.

        A stream whose client has seen events of this run is left alone.
        """

        def is_replayable(call: Call) -> bool:
            return call.is_repeatable and self._must_requeue(call, Version.V2)

        self._pools[Version.V2].withdraw_running(is_replayable)

    @property
    def rollback_seconds(self) -> float:
        """Time from the last fall to 0 % until the split's last dispatch to V2, in seconds; 0 if none came after it."""
        if self._rolled_back_at is None:
            return 0.0
        running = [call.dispatched_at for call, route in self._routes.items() if route.decision is _CANARY]
        return max(0.0, max([self._last_canary_dispatch, *running]) - self._rolled_back_at)

    def _requeue(self, rollout: Rollout) -> None:
        """Moves the calls that wait in a queue to which the new rollout would not have sent them: none is lost."""
        has_fallen = rollout.canary_basis_points == 0 and self._has_canary
        self._has_canary = rollout.canary_basis_points > 0
        if has_fallen:
            self._rolled_back_at = _perf_counter()
        for version, pool in self._pools.items():
            pool.withdraw(lambda call, version=version: self._must_requeue(call, version))  # type: ignore[misc]

    def _requeue_diverted(self) -> None:
        """Moves the calls that wait in the queue of V2, which is down, to V1."""
        self._pools[Version.V2].withdraw(lambda call: self._must_requeue(call, Version.V2))

    def _must_requeue(self, call: Call, version: Version) -> bool:
        route = self._routes.get(call)
        return route is not None and self._decide(route.bucket, route.forced).version is not version


def _settle(end: "asyncio.Future[Result]", outcome: Result | Exception) -> None:
    if end.done():
        return
    if isinstance(outcome, Result):
        end.set_result(outcome)
    else:
        end.set_exception(outcome)
