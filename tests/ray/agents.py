"""Agents of nodes without Ray: processes on this machine."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pools.ray.driver_messages import Up
from tests.support.service import ROOT

TOKEN = "a token of this test"
UNUSED_END_TIMEOUT_S = 1.0
"""The patience of these agents with connections that no worker is forked for."""
AGENT = f"""
from poolshift.node import zygote_session
from poolshift.node.agent import Agent
zygote_session.UNUSED_END_TIMEOUT_S = {UNUSED_END_TIMEOUT_S}
agent = Agent({TOKEN!r}, "127.0.0.1")
agent.start()
print(agent.port, flush=True)
agent.wait()
"""


@contextmanager
def running_agent() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """An agent's process and its port."""
    process = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    with process:
        yield process, int(process.stdout.readline())
        process.kill()


def up(port: int, name: str = "a", slots: int = 2) -> Up:
    """The driver's news of an agent."""
    return Up(agent=name, host="127.0.0.1", port=port, token=TOKEN, node="node-1", slots=slots)
