"""Asks the other replicas of the machine, over HTTP on their sockets in the kernel's own namespace (unix(7))."""

import asyncio
import os
from collections.abc import Mapping
from socket import socket
from typing import Final

import httpx

from app.replicas.answering import HEADER, PREFIX
from app.replicas.questions import Missing
from app.replicas.replica import Presence, Replica

_ANSWERING: Final = (Presence.SERVING, Presence.STOPPING)
_IDLE_S: Final = 2.0
"""Time after which an idle connection is not used again, in seconds: before the other end would close it."""


class Peers:
    """The other replicas of the machine. A connection to each stays open."""

    def __init__(self, replica: Replica) -> None:
        """Takes the `replica` that asks."""
        self._replica = replica
        machine = replica.machine
        self._clients = {
            index: _client(peer, machine.token) for index, peer in enumerate(machine.peers) if index != replica.index
        }

    def __repr__(self) -> str:
        seen = {index: str(self._replica.presence(index)) for index in self._clients}
        return f"<Peers {seen}>"

    async def ask(
        self, question: str, argument: bytes, timeout_s: float | None
    ) -> tuple[Mapping[int, bytes], list[Missing]]:
        """Asks all that can answer at once; returns the answers by replica, and who is missing.

        Without `timeout_s`, whoever is asked is waited for until it has answered, or has died.
        """
        told: dict[int, bytes] = {}
        missing: list[Missing] = []

        async def ask(index: int, client: httpx.AsyncClient) -> None:
            presence = self._replica.presence(index)
            if presence not in _ANSWERING:
                missing.append(Missing(index, presence))
                return
            try:
                async with asyncio.timeout(timeout_s):
                    answer = await client.post(PREFIX + question, content=argument)
                    told[index] = answer.raise_for_status().content
            except (httpx.HTTPError, TimeoutError):
                missing.append(Missing(index, self._why_silent(index)))

        await asyncio.gather(*(ask(index, client) for index, client in self._clients.items()))
        return told, sorted(missing)

    def _why_silent(self, index: int) -> str:
        presence = self._replica.presence(index)
        return "did not answer" if presence in _ANSWERING else str(presence)

    async def aclose(self) -> None:
        """Closes the connections."""
        for client in self._clients.values():
            await client.aclose()


def _client(peer: socket, token: str) -> httpx.AsyncClient:
    # Nothing here is TLS: to read whom it trusts would take 10 ms.
    limits = httpx.Limits(keepalive_expiry=_IDLE_S)
    transport = httpx.AsyncHTTPTransport(uds=os.fsdecode(peer.getsockname()), verify=False, limits=limits)
    return httpx.AsyncClient(
        transport=transport,
        base_url="http://replica",
        headers={HEADER: token},
        timeout=None,  # noqa: S113  # the question has one
        trust_env=False,
    )
