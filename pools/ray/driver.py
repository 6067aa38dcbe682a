"""The process that speaks with Ray for one pool: places an agent on each node, and says when one comes or goes.

    python -P -m pools.ray.driver PLAN FD

PLAN is a `Plan` as JSON, FD the driver's end of a socket pair. It is a process of its own, since Ray ends the process
that uses it when the cluster's head stays away for a minute. It ends with the service.
"""

import os
import select
import socket
import sys
import time
import uuid
from typing import Any, Final

import msgspec
import ray
from ray._private import services as untyped_services

from pools.ray.driver_messages import Connected, Event, Fault, Gone, Plan, Up
from pools.ray.reach import NotReached, look
from poolshift.node.actor import NodeActor
from poolshift.worker import linux

POLL_S: Final = 0.25
"""Time between two looks at the service's socket."""
RETRY_S: Final = 2.0
"""From an agent that could not be started to the next attempt."""
PLACEMENT_TIMEOUT_S: Final = 10.0
"""An agent that is not up after this time is told of as a fault. It goes on waiting: a cluster can grow.

Ray needs 2 to 30 s for an agent, the longer the busier the machine is, and longer still if it installs packages there.
"""
CALLS_AT_ONCE: Final = 4

MAX_REASON_LENGTH: Final = 400

_MISSING = "No module named "
_MISMATCH = "Version mismatch"


class Driver:
    """Keeps one agent per entry of the plan, for as long as the service lives."""

    def __init__(self, plan: Plan, link: socket.socket) -> None:
        self._plan = plan
        self._link = link
        self._pending: dict[Any, _Agent] = {}
        """The agents, each by the reference that tells of its next news."""
        self._retries: list[tuple[float, int]] = []
        """Agents that could not be started: the time of the next attempt by `time.monotonic`, and the slots."""
        self._told: str | None = None
        self._node: tuple[str, socket.socket] | None = None
        """The socket of the node that the driver is on, by its path, and a connection to it."""

    def __repr__(self) -> str:
        return f"<Driver pending={len(self._pending)} retries={len(self._retries)}>"

    def run(self) -> None:
        """Connects and serves until the service closes the socket."""
        connect(self._plan)
        node: Any = ray._private.worker._global_node
        self._watch_node(node.raylet_socket_name)
        self._tell(Connected())
        for slots in self._plan.slots:
            self._place(slots)
        while not select.select([self._link], [], [], 0)[0]:
            self._turn()
            self._check_node()

    def _watch_node(self, path: str) -> None:
        """Connects to the node, once: it logs each connection that ends. Raises RuntimeError if nobody listens."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise RuntimeError("the Ray node of this machine has ended") from None
        self._node = path, connection

    def _check_node(self) -> None:
        """Ends the driver if the node that it is on is dead: Ray goes on waiting, even if the cluster is started again.

        Raises:
            RuntimeError: the connection to the node has ended, and there is no other.
        """
        assert self._node is not None
        path, connection = self._node
        if select.select([connection], [], [], 0)[0]:
            connection.close()
            self._watch_node(path)

    def _turn(self) -> None:
        if self._pending:
            done, _ = ray.wait(list(self._pending), num_returns=1, timeout=POLL_S)
        else:
            done = []
            time.sleep(POLL_S)
        for reference in done:
            self._take_news(self._pending.pop(reference), reference)
        now = time.monotonic()
        due = [slots for at, slots in self._retries if at <= now]
        self._retries = [(at, slots) for at, slots in self._retries if at > now]
        for slots in due:
            self._place(slots)
        self._tell_of_waiting(now)

    def _place(self, slots: int) -> None:
        agent = _Agent(self._plan, slots)
        self._pending[agent.actor.address.remote()] = agent

    def _take_news(self, agent: "_Agent", reference: Any) -> None:
        try:
            news = ray.get(reference)
        except ray.exceptions.ActorUnavailableError:
            time.sleep(POLL_S)
            self._pending[agent.next_news()] = agent
            return
        except ray.exceptions.RayError as error:
            self._died(agent, error)
            return
        if agent.is_up:
            self._died(agent, None)
            return
        host, port, node = news
        agent.is_up = True
        self._told = None
        name = f"{host}/{node[:8]}"
        self._tell(Up(agent=agent.name, host=host, port=port, token=agent.token, node=name, slots=agent.slots))
        self._pending[agent.next_news()] = agent

    def _died(self, agent: "_Agent", error: Exception | None) -> None:
        reason = "it ended" if error is None else one_line(error)
        if agent.is_up:
            self._tell(Gone(agent=agent.name, reason=reason))
        else:
            self._tell_fault(f"an agent could not be started: {reason}")
        pause_s = 0.0 if agent.is_up else RETRY_S
        self._retries.append((time.monotonic() + pause_s, agent.slots))

    def _tell_of_waiting(self, now: float) -> None:
        waiting = [agent for agent in self._pending.values() if not agent.is_up]
        if waiting and min(agent.since for agent in waiting) < now - PLACEMENT_TIMEOUT_S:
            self._tell_fault(self._why_they_wait(waiting))

    def _why_they_wait(self, waiting: "list[_Agent]") -> str:
        """The reasons that there can be: Ray does not say which one keeps an agent waiting."""
        reasons = ["Ray is still starting them"]
        if self._plan.requirements:
            reasons.append("it is still installing RAY_REQUIREMENTS")
        cpus = waiting[0].slots * self._plan.cpus_per_worker
        if cpus:
            reasons.append(f"no node has {cpus:g} free CPUs (RAY_WORKERS_PER_NODE, RAY_CPUS_PER_WORKER)")
        many = f"{len(waiting)} of {len(self._plan.slots)} agents"
        return f"{many} are not up after {PLACEMENT_TIMEOUT_S:g} s: {', or '.join(reasons)}"

    def _tell_fault(self, reason: str) -> None:
        if reason != self._told:
            self._told = reason
            self._tell(Fault(reason))

    def _tell(self, event: Event) -> None:
        self._link.sendall(msgspec.json.encode(event) + b"\n")


class _Agent:
    """One actor, from the wish for it to its death."""

    def __init__(self, plan: Plan, slots: int) -> None:
        self.slots = slots
        self.token = uuid.uuid4().hex + uuid.uuid4().hex
        self.name = f"{plan.namespace}-{uuid.uuid4().hex[:8]}"
        self.since = time.monotonic()
        self.is_up = False
        actor_class = ray.remote(NodeActor)
        self.actor: Any = actor_class.options(
            name=self.name,
            num_cpus=slots * plan.cpus_per_worker,
            scheduling_strategy="SPREAD",
            max_concurrency=CALLS_AT_ONCE,
            max_restarts=0,
        ).remote(self.token)

    def __repr__(self) -> str:
        return f"<_Agent {self.name} slots={self.slots} up={self.is_up}>"

    def next_news(self) -> Any:
        """Asks for what there is to be known next: the address, and after that the death."""
        return self.actor.wait.remote() if self.is_up else self.actor.address.remote()


def connect(plan: Plan) -> None:
    """Joins the cluster; its nodes get our code and the packages, where a process of ours starts there.

    Raises:
        NotReached: no cluster answers at the address, or this machine has no node of any.
        Exception: whatever Ray makes of a cluster that does not fit.
    """
    services: Any = untyped_services
    has_node = bool(services.find_gcs_addresses())
    if plan.address != "auto":
        look(plan.address, os.environ)
    elif has_node:
        look(services.canonicalize_bootstrap_address(plan.address), os.environ)
    if not has_node:
        head = "HEAD:PORT" if plan.address == "auto" else plan.address
        command = f"ray start --address={head} --num-cpus=0"
        raise NotReached(f"this machine runs no Ray node that the service sees, and it needs one: {command}")
    # Ray would have the same patch release, which an image of the service and one of Ray seldom have.
    os.environ.setdefault("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
    runtime: dict[str, Any] = {"py_modules": [plan.code], "excludes": ["**/__pycache__"]}
    if plan.requirements:
        runtime["pip"] = plan.requirements
    ray.init(
        address=plan.address,
        namespace=plan.namespace,
        runtime_env=runtime,
        log_to_driver=False,
        configure_logging=False,
    )


def one_line(error: BaseException) -> str:
    """The line of Ray's account of an error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and _MISMATCH in lines[0]:
        return " ".join(lines)[:MAX_REASON_LENGTH]
    missing = next((line for line in lines if _MISSING in line), None)
    if missing is not None:
        name = missing.partition(_MISSING)[2].strip("'\" ")
        return f"the node's Python has no {name}: install it there, or name it in RAY_REQUIREMENTS"
    told = [line for line in lines if "Error" in line] or lines or [type(error).__name__]
    return told[-1][:MAX_REASON_LENGTH]


def main() -> None:
    """Serves until the service is gone, or tells of what keeps it from that and ends."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    link = socket.socket(fileno=int(sys.argv[2]))
    linux.die_with_parent()
    try:
        Driver(plan, link).run()
    except BrokenPipeError:
        pass  # the service is gone
    except Exception as error:
        link.sendall(msgspec.json.encode(Fault(one_line(error))) + b"\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
