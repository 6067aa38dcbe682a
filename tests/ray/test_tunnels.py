"""The tunnels of TLS in one process, so that every Python's rules for certificates are met by `make test-fast`."""

import asyncio
import socket
from pathlib import Path

import pytest

from poolshift.node.tls import Tls, tls_of
from tests.ray.agents import issue_certificates

pytestmark = pytest.mark.anyio


async def tunnels(service: Tls, agent: Tls) -> tuple[socket.socket, socket.socket]:
    """The ends of the service and of the agent, for a connection on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    for sock in (outer, accepted):
        sock.setblocking(False)
    ends = await asyncio.gather(service.to_agent(outer, "127.0.0.1"), agent.from_service(accepted))
    return ends[0], ends[1]


async def test_bytes_come_through_both_ways_and_so_does_the_end(tmp_path: Path) -> None:
    """More than one record, and what is written behind the other side's end."""
    tls = tls_of(issue_certificates(tmp_path))
    assert tls is not None
    loop = asyncio.get_running_loop()
    ours, theirs = await tunnels(tls, tls)
    sent = bytes(range(256)) * 4096
    sending = asyncio.ensure_future(loop.sock_sendall(ours, sent))
    got = b""
    while len(got) < len(sent):
        got += await loop.sock_recv(theirs, 65536)
    await sending
    assert got == sent
    ours.shutdown(socket.SHUT_WR)
    assert await loop.sock_recv(theirs, 1) == b""
    await loop.sock_sendall(theirs, b"last")
    theirs.close()
    assert await loop.sock_recv(ours, 4) == b"last"
    assert await loop.sock_recv(ours, 1) == b""
    ours.close()


async def test_certificates_of_two_authorities_do_not_meet(tmp_path: Path) -> None:
    """Each side refuses the other, before a byte is through."""
    sides = []
    for name in ("service", "agent"):
        (tmp_path / name).mkdir()
        sides.append(tls_of(issue_certificates(tmp_path / name)))
    service, agent = sides
    assert service is not None
    assert agent is not None
    with pytest.raises(OSError, match="certificate verify failed"):
        await tunnels(service, agent)
