"""Encrypted connections to an agent: who shows no certificate of the authority gets nothing, and bytes come through."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from pools.calls import Result
from pools.errors import SpawnFailed
from poolshift.node.tls import tls_of
from tests.ray.agents import issue_certificates
from tests.ray.test_agent import Node, begin

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    """Ray's variables of the agent."""
    return issue_certificates(tmp_path)


async def close(node: Node) -> None:
    """Ends the service's side."""
    await asyncio.wait_for(node.spawner.aclose(), 20)
    await node.background.aclose()


async def test_large_calls_come_through(
    agent: tuple["subprocess.Popen[str]", int], certificates: dict[str, str]
) -> None:
    """Many records each way, and a small call behind them."""
    node = Node(agent[1], certificates)
    worker = await node.spawner.spawn()
    for size in (20_000_000, 1):
        outcome = await asyncio.wait_for(await begin(worker, "programs:echo_object", nonce="x" * size), 60)
        assert isinstance(outcome, Result), outcome
        assert bytes(outcome.outputs).count(b"x") == size
    await close(node)


@pytest.mark.parametrize("theirs", ["none", "of another authority"])
async def test_who_shows_no_certificate_gets_nothing(
    agent: tuple["subprocess.Popen[str]", int], theirs: str, foreign: dict[str, str]
) -> None:
    """Neither a zygote nor an answer, though it has the token."""
    node = Node(agent[1], {} if theirs == "none" else foreign)
    with pytest.raises(SpawnFailed):
        await node.spawner.spawn()
    with pytest.raises(SpawnFailed):
        await node.spawner.describe()
    await close(node)


async def test_an_agent_that_does_not_take_the_service(
    agent: tuple["subprocess.Popen[str]", int], certificates: dict[str, str], foreign: dict[str, str]
) -> None:
    """A service that trusts the agent, and whose own certificate is of another authority."""
    node = Node(agent[1], foreign | {"RAY_TLS_CA_CERT": certificates["RAY_TLS_CA_CERT"]})
    with pytest.raises(SpawnFailed):
        await node.spawner.spawn()
    await close(node)


async def test_an_agent_at_another_address_is_refused(
    agent: tuple["subprocess.Popen[str]", int], certificates: dict[str, str]
) -> None:
    """A certificate is for the address of its node alone."""
    node = Node(agent[1], certificates)
    node.host._up.host = "localhost"
    with pytest.raises(SpawnFailed, match="localhost"):
        await node.spawner.spawn()
    await close(node)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """A missing file and one that is no certificate, before any connection."""
    good = issue_certificates(tmp_path)
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        (tmp_path / "nonsense").write_text("nonsense")
        for wrong in (tmp_path / "missing", tmp_path / "nonsense"):
            with pytest.raises(OSError):  # noqa: PT011 - ssl has several, all of them this
                tls_of(good | {name: str(wrong)})
    assert tls_of(good | {"RAY_USE_TLS": "0"}) is None
