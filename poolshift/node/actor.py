"""The class of the Ray actor that is a service's agent on a node."""

import ray

from poolshift.node.agent import Agent


class NodeActor:
    """Runs an `Agent` in the actor's process."""

    def __init__(self, token: str) -> None:
        """`token` is what connections to the agent have to show."""
        self._host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._agent = Agent(token, self._host)
        self._agent.start()

    def address(self) -> tuple[str, int, str]:
        """The node's address, the agent's port, and the node's id in Ray."""
        return self._host, self._agent.port, ray.get_runtime_context().get_node_id()

    def wait(self) -> None:
        """Returns when the agent has ended: the end of this call is the news of the agent's death."""
        self._agent.wait()
