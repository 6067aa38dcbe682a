"""Messages from the driver, the process that speaks with Ray, to the service: lines of JSON on a socket pair."""

import msgspec


class Plan(msgspec.Struct):
    """All that the driver is to do, as its command line has it."""

    address: str
    namespace: str
    """A name that no other service on the cluster has."""
    slots: list[int]
    """The number of workers of each agent."""
    cpus_per_worker: float
    code: str
    """The folder of the package `poolshift`, which the nodes get."""
    requirements: list[str]
    """Packages that Ray is to install on the nodes for the agents and the workers."""


class Connected(msgspec.Struct, tag="connected"):
    """The driver is a part of the cluster."""


class Up(msgspec.Struct, tag="up"):
    """An agent serves."""

    agent: str
    host: str
    port: int
    token: str
    node: str
    slots: int


class Gone(msgspec.Struct, tag="gone"):
    """Ray says that an agent is dead. Another is asked for at once."""

    agent: str
    reason: str


class Fault(msgspec.Struct, tag="fault"):
    """Something keeps agents from starting, in one line for the operator."""

    reason: str


Event = Connected | Up | Gone | Fault
