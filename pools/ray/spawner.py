"""Starts a pool's workers on the nodes of a Ray cluster, through one agent per node."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

import structlog

from common.background import Background, Health
from common.backoff import backoff_s
from common.tasks import TaskOwner
from pools.errors import CodeOutdated, SpawnFailed
from pools.process.checks import Checks
from pools.process.interface import Loads, TryOut, Worker
from pools.process.process import WorkerProcess
from pools.process.program_code import NO_SEEDS, ProgramCode, RecentModules, Seeds
from pools.process.spawner import Spawner
from pools.process.stats import ProcessStats
from pools.ray.driver_link import events_of_driver
from pools.ray.driver_messages import Connected, Event, Fault, Gone, Plan, Up
from pools.ray.node_host import NodeHost
from pools.ray.packed_code import PackedCode
from poolshift.node.messages import Code
from poolshift.node.tls import tls_of
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.describe import Description

REST_S: Final = 1.0
"""The rest of a node after a failed start, times the failures in a row."""
MAX_REST_S: Final = 10.0
PROBE_INTERVAL_S: Final = 0.5
"""Time between two attempts to reach an agent whose connection has broken."""
MEASURE_TIMEOUT_S: Final = 0.5
TELL_AGAIN_S: Final = 60.0
"""From a line of the log about a fault to the next about the same one, in seconds."""
LOOK_INTERVAL_S: Final = 1.0
"""Time between two looks at the folder of the programs, if somebody follows it."""

_log = structlog.stdlib.get_logger("poolshift.ray")


@dataclass(slots=True, eq=False)
class _Node:
    """A node with an agent; `is_reached` says if the service has a connection, as far as it knows."""

    slots: int
    host: NodeHost
    spawner: Spawner
    is_reached: bool = True
    is_watched: bool = True
    """True while there is a driver that would tell of the agent's death."""
    starting: int = 0
    failures: int = 0
    """The starts in a row that have failed."""
    rests_until: float = 0.0
    """By the loop's time: other nodes are asked first until then."""
    workers: set[WorkerProcess] = field(default_factory=set)

    @property
    def load(self) -> float:
        """The share of its places that are taken; workers that are being ended take none."""
        lasting = sum(worker.ended_for is None for worker in self.workers)
        return (lasting + self.starting) / self.slots

    def rank(self, now: float) -> tuple[bool, bool, float]:
        """Sorts nodes: one with room comes first, then one whose last start did not fail, then the emptier one."""
        return self.load >= 1, now < self.rests_until, self.load


class RaySpawner:
    """Starts the workers of one pool on the nodes that Ray gives it (see `pools.process.interface.WorkerSpawner`).

    It has as many places as the agents that it reaches. An agent that is lost takes its places along.
    """

    def __init__(
        self,
        code: ProgramCode,
        environment: Mapping[str, str],
        plan: Plan,
        *,
        inherited: Mapping[str, str],
        background: Background,
        user: tuple[int, int] | None = None,
        seeds: Seeds = NO_SEEDS,
    ) -> None:
        """Takes as `environment` what a worker sees of the service's environment, as `inherited` what the driver does.

        The first zygote of each node imports the modules of `seeds`. `user` is the user id and the group id that
        workers change to.
        """
        self._code = code
        self._environment = dict(environment)
        self._packed = PackedCode(code, self._environment)
        self._plan = plan
        self._inherited = dict(inherited)
        self._background = background
        self._user = user
        self._fault: str | None = None
        """The reason for which Ray gives no agents."""
        self._told: str | None = None
        """The reason that was logged last."""
        self._tell_again_at = 0.0
        """By the loop's time."""
        self._is_closing = False
        self._nodes: dict[str, _Node] = {}
        self._seeds = seeds
        self._recent = RecentModules(seeds.definitions, code.allowed_modules)
        self._on_places: Callable[[], None] | None = None
        self._checks = Checks(self.spawn, code.load_timeout_s)
        self._tasks = TaskOwner("nodes", is_detached=True)
        self._driver = background.run("ray_driver", self._follow_driver)
        self._watch = background.run("ray_code", self._look_at_code)

    def __repr__(self) -> str:
        return f"<RaySpawner nodes={len(self._nodes)} places={self.places} of={sum(self._plan.slots)}>"

    # --- WorkerSpawner

    @property
    def places(self) -> int:
        """The number of workers that the agents have room for which the service reaches."""
        return sum(node.slots for node in self._reached())

    @property
    def start_failure(self) -> str | None:
        """The reason for which no worker can start: of Ray, or of the first node if no node can start any."""
        failures = [node.spawner.start_failure for node in self._reached()]
        if not failures:
            return self._fault
        return failures[0] if all(failures) else None

    def watch_places(self, listener: Callable[[], None]) -> None:
        """Calls `listener` each time that `places` or `start_failure` has changed."""
        self._on_places = listener

    async def spawn(self) -> WorkerProcess:
        """Starts a worker on the node that has the most room, and returns it when it is ready.

        A node whose last start failed rests, so that one node that cannot start workers does not keep the others idle.

        Raises:
            SpawnFailed: no node can be reached, or the one that was chosen could not start it.
        """
        now = asyncio.get_running_loop().time()
        node = min(self._reached(), key=lambda node: node.rank(now), default=None)
        if node is None:
            raise SpawnFailed(self.start_failure or "no node of the Ray cluster can be reached")
        node.starting += 1
        try:
            worker = await node.spawner.spawn()
        except SpawnFailed:
            node.failures += 1
            node.rests_until = asyncio.get_running_loop().time() + min(REST_S * node.failures, MAX_REST_S)
            raise
        finally:
            node.starting -= 1
        node.failures = 0
        node.workers.add(worker)
        worker.exited.add_done_callback(lambda _: node.workers.discard(worker))
        return worker

    async def check(self, definition: Definition) -> Signature | None:
        """Tries to load `definition` in a worker of its own (see `pools.process.interface.WorkerSpawner.check`)."""
        if await self._packed.is_outdated():
            raise CodeOutdated(on_disk="changed", of_workers=self.revision or "")
        return await self._checks.check(definition)

    async def load(self, definition: Definition) -> None:
        """Loads `definition` as its first call would (see `pools.process.interface.WorkerSpawner.load`)."""
        await self._checks.load(definition)

    async def describe(self) -> Description:
        """Tells the Python of the workers, as the first node has it.

        Raises:
            SpawnFailed: there is no node, or its interpreter cannot run workers.
        """
        node = next(iter(self._reached()), None)
        if node is None:
            raise SpawnFailed(self.start_failure or "no node of the Ray cluster can be reached")
        return await node.spawner.describe()

    @property
    def revision(self) -> str | None:
        """The revision of the code that workers have which are started now; None before the first start."""
        return next((node.spawner.revision for node in self._nodes.values() if node.spawner.revision), None)

    @property
    def commit(self) -> str | None:
        """The git commit of that code; None if it is of no single one."""
        return next((node.spawner.commit for node in self._nodes.values() if node.spawner.revision), None)

    def watch_code(self, on_new_code: Callable[[], None]) -> None:
        """Calls `on_new_code` each time that the folder of the programs has changed and is settled."""
        self._packed.listener = on_new_code

    async def renew(self, try_out: TryOut | None = None, *, is_forced: bool = False) -> None:
        """Makes workers that are started from now on run the code that is on disk now, on all nodes.

        Raises:
            SpawnFailed: the first node cannot start such workers, or `try_out` refuses the code there, and no node is
                changed; or a later one cannot.
        """
        await self._bring(await self._packed.on_disk(), try_out, is_forced=is_forced)

    @property
    def previous_revision(self) -> str | None:
        """The revision of the code before the last renewal with other code; None if that code is not kept."""
        return self._packed.previous_revision

    async def bring_back(self) -> None:
        """Makes all nodes start zygotes with that code, which is kept packed, whatever is on disk.

        Raises:
            NoPreviousCode: there is none.
            SpawnFailed: as `renew`.
        """
        await self._bring(self._packed.take_back(), None, is_forced=True)

    async def _bring(self, code: Code, try_out: TryOut | None, *, is_forced: bool) -> None:
        """Has all nodes start zygotes with `code`, the first node before the others. Raises SpawnFailed."""
        packed, tries, revision, nodes = self._packed, try_out or _accept, self.revision, self._reached()
        before, packed.present = packed.present, code

        async def tried(new: Loads, present: Loads) -> None:
            packed.present = before  # other nodes may start zygotes meanwhile
            await tries(new, present)
            packed.present = code

        try:
            await asyncio.gather(*(node.spawner.renew(tried, is_forced=is_forced) for node in nodes[:1]))
        except BaseException:
            packed.present = before
            raise
        packed.replaced(before, revision)
        await asyncio.gather(*(node.spawner.renew(is_forced=is_forced) for node in nodes[1:]))

    async def measure(self, workers: Sequence[Worker]) -> list[ProcessStats | None]:
        """Has each node measure its workers. A node that does not answer in time counts with its last figures."""
        zygotes = [zygote for node in self._reached() for zygote in node.host.zygotes]
        await asyncio.gather(*(zygote.refresh(MEASURE_TIMEOUT_S) for zygote in zygotes))
        return [worker.stats() for worker in workers]

    async def aclose(self) -> None:
        """Ends every worker that is left, then the agents."""
        self._is_closing = True  # the driver may still tell of agents, whose nodes nobody would close
        nodes, self._nodes = list(self._nodes.values()), {}
        await asyncio.gather(*(node.spawner.aclose() for node in nodes))
        await self._background.stop(self._watch)
        await self._background.stop(self._driver)
        await self._tasks.aclose()

    # --- nodes

    def _reached(self) -> list[_Node]:
        return [node for node in self._nodes.values() if node.is_reached]

    async def _follow_driver(self) -> None:
        """Keeps a driver running. One that ends is started again, after a pause that grows."""
        failures = 0
        while True:
            try:
                await self._packed.ensure()
                last: Event | None = None
                async with aclosing(events_of_driver(self._plan, self._inherited)) as events:
                    async for last in events:
                        failures = 0 if isinstance(last, Connected) else failures
                        self._take(last)
                if failures == 0 and not isinstance(last, Fault):
                    self._fail("the driver has ended: the head of the cluster may be gone")
            except (OSError, SpawnFailed) as error:
                self._fail(str(error))
            self._forget_driver()
            failures += 1
            await asyncio.sleep(backoff_s(failures))

    def _forget_driver(self) -> None:
        """Keeps the nodes whose workers run on, and drops the others: nobody tells of their agents any more."""
        for agent, node in list(self._nodes.items()):
            node.is_watched = False
            if not node.is_reached:
                self._went(agent, "its driver has ended")

    def _take(self, event: Event) -> None:
        if self._is_closing:
            return
        match event:
            case Up():
                self._came(event)
            case Gone(agent, reason):
                self._went(agent, reason)
            case Fault(reason):
                self._fail(reason)

    def _fail(self, reason: str) -> None:
        if self._is_closing:
            return
        now = asyncio.get_running_loop().time()
        if reason != self._told or now >= self._tell_again_at:
            _log.error("Ray gives no workers", reason=reason, places=self.places, wished=sum(self._plan.slots))
            self._told, self._tell_again_at = reason, now + TELL_AGAIN_S
        self._fault = f"WORKERS=ray: {reason}"
        self._tell()

    def _came(self, up: Up) -> None:
        try:
            tls = tls_of(self._inherited)  # read for each agent: certificates are renewed
        except (OSError, ValueError) as error:
            self._fail(f"the certificates of RAY_USE_TLS cannot be used: {error}")
            return
        host = NodeHost(up, self._packed.for_nodes, lambda: self._unreached(up.agent), tls)
        spawner = Spawner(
            self._code,
            self._environment,
            background=self._background,
            user=self._user,
            host=host,
            recent=self._recent,
            seeds=self._seeds,
            health=Health(),
            keeps_previous=False,  # nodes come and go: the packed code is kept here
        )
        self._nodes[up.agent] = _Node(up.slots, host, spawner)
        self._fault = self._told = None
        _log.info("node has come", node=up.node, slots=up.slots, places=self.places, wished=sum(self._plan.slots))
        self._tell()

    def _went(self, agent: str, reason: str) -> None:
        node = self._nodes.pop(agent, None)
        if node is None:
            return
        _log.warning("node is gone", node=node.host.node, reason=reason, places=self.places)
        self._tasks.start(node.spawner.aclose())
        self._note_loss(f"{node.host.node} is gone: {reason}")
        self._tell()

    def _unreached(self, agent: str) -> None:
        node = self._nodes.get(agent)
        if node is None or not node.is_reached:
            return
        node.is_reached = False
        if not node.is_watched:
            self._went(agent, "its connection has broken, and its driver has ended before")
            return
        _log.warning("node is lost", node=node.host.node, places=self.places, wished=sum(self._plan.slots))
        self._tasks.start(self._reach_again(agent, node))
        self._note_loss(f"{node.host.node} cannot be reached")
        self._tell()

    def _note_loss(self, reason: str) -> None:
        """Makes the loss of the last node the fault, unless there is one already that says more."""
        if self._fault is None and not self._reached():
            self._fault = f"WORKERS=ray: no node is left, the last one {reason}"

    async def _reach_again(self, agent: str, node: _Node) -> None:
        """Tries to reach a node until it answers, or Ray says that its agent is dead."""
        while self._nodes.get(agent) is node:
            await asyncio.sleep(PROBE_INTERVAL_S)
            if await node.host.answers() and self._nodes.get(agent) is node:
                node.is_reached, self._fault = True, None
                _log.info("node is reached again", node=node.host.node, places=self.places)
                self._tell()
                return

    def _tell(self) -> None:
        if self._on_places is not None:
            self._on_places()

    async def _look_at_code(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await self._packed.look()


async def _accept(new: Loads, present: Loads) -> None:
    """Takes any code."""
