"""Runs the application under uvicorn, and ends it in order: unready, drain, stop."""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final

import structlog
import uvicorn
from prometheus_client import disable_created_metrics

from app import listening
from app.application import Application, create_app
from app.execute.connections import Connections, Limits
from app.execute.protocol import LaneProtocol
from app.logs import name_replica
from app.positions.factory import PoolSet
from app.positions.reload import ON_SIGNAL
from app.protection import protect
from app.replicas.accepting import Acceptor
from app.replicas.page import State
from app.replicas.replica import Machine, Replica, part_of
from app.replicas.supervisor import Supervisor
from app.services import Services
from common.terminal import ends_at_hangup, has_terminal
from config.settings import InvalidSettings, Settings
from poolshift.worker.linux import KEPT_BYTES, keep_freed_memory, open_many_files
from routing.errors import StoreUnavailable
from store.database import claim_for_replicas

STARTUP_FAILURE: Final = 3
"""The exit code of a service that could not start, which is uvicorn's."""
INVALID_SETTINGS: Final = 2
"""The exit code of a service whose settings do not go with what the database or a file has."""

_log = structlog.stdlib.get_logger("poolshift")


class Server(uvicorn.Server):
    """A server that, on SIGTERM or SIGINT, finishes what it has accepted before it stops.

    1. Unready: `/readyz` says 503, new calls are answered `pool_closed` and their connections closed.
    2. Drain: accepted calls go on, at most for `DRAIN_TIMEOUT_S`.
    3. Stop: what still runs then is answered `pool_closed`; the sockets close, the workers end.

    A second signal skips the drain. SIGHUP reloads the code of the programs: all workers are replaced, one by one,
    unless the pools are being compared. If there is a controlling terminal, it has hung up then, and SIGHUP is a
    SIGTERM.
    """

    def __init__(self, app: Application, settings: Settings, replica: Replica | None = None) -> None:
        """Takes the `replica` that this process is, if there are several."""
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=self._connect,  # type: ignore[arg-type]  # what it calls to make one
                interface="asgi3",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # nothing here goes by the client's address
                server_header=False,
                backlog=listening.BACKLOG,
                workers=1,  # or else it reads WEB_CONCURRENCY by itself, which is ours
                reset_contextvars=True,  # a request that came early is begun by the one before it
                timeout_graceful_shutdown=5,
            )
        )
        self._app = app
        self._settings = settings
        self._replica = replica
        self._acceptor: Acceptor | None = None
        self._connections: Connections | None = None
        self._drain: asyncio.Task[None] | None = None
        self._skips_drain = asyncio.Event()

    def _connect(self, **handed: Any) -> LaneProtocol:
        """The service's end of a new connection, from what uvicorn hands to every protocol."""
        return LaneProtocol(self._all_connections(), **handed)

    def _all_connections(self) -> Connections:
        if self._connections is None:
            self._connections = Connections(self._app.lane, _limits(self._settings, part_of(self._replica)))
            self._connections.is_draining = self._drain is not None
        return self._connections

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until it is told to stop, where the settings say unless `sockets` listen already.

        Raises:
            CannotListen: the port is taken, or there is no such address. Nothing has been touched then.
        """
        super().run(sockets or listening.listen(self._settings.host, self._settings.port))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which does not know settings that make no sense."""
        try:
            await self._start(sockets)
        except SystemExit:
            if isinstance(self._app.state.start_error, InvalidSettings):
                sys.exit(INVALID_SETTINGS)
            raise

    async def _start(self, sockets: list[socket.socket] | None) -> None:
        """As uvicorn's, which does not say where it listens on sockets that are handed to it."""
        if self._replica is None:
            await super().startup(sockets)
            _log.info("listening", urls=[listening.url(sock) for sock in sockets or ()])
            return
        replica = self._replica
        await super().startup([])
        await self._listen_for_peers(replica)
        accepted = partial(self._accepted, self._all_connections())
        self._acceptor = Acceptor(sockets or (), replica.machine.page, replica.index, accepted)
        self._all_connections().on_count = self._acceptor.counted
        replica.is_now(State.SERVING)

    async def _listen_for_peers(self, replica: Replica) -> None:
        """Accepts the other replicas' connections, which count as nobody's and are not closed by a drain."""
        connections = Connections(self._app.lane, _limits(self._settings, part_of(replica)))
        accepted, sock = partial(self._accepted, connections), replica.machine.peers[replica.index]
        self.servers.append(await asyncio.get_running_loop().create_unix_server(accepted, sock=sock))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which knows of no other way to accept connections than its own."""
        if self._acceptor is not None:
            await self._acceptor.aclose()
        await super().shutdown(sockets)

    def _accepted(self, connections: Connections) -> asyncio.Protocol:
        """The service's end of a connection that it has accepted itself."""
        return LaneProtocol(  # type: ignore[return-value]  # it has the methods of one
            connections, self.config, self.server_state, self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the place of uvicorn's handlers, which would stop at once and then die of the signal."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGTERM: self._stop_requested, signal.SIGINT: self._stop_requested}
        if ends_at_hangup():
            handlers[signal.SIGHUP] = self._stop_requested
        elif not has_terminal():
            handlers[signal.SIGHUP] = self._reload_requested
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler, number)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop_requested(self, number: signal.Signals) -> None:
        if not self.started:  # nothing has been accepted yet: it stops as soon as it has started
            self.should_exit = True
            return
        if self._drain is not None:
            self._skips_drain.set()
            return
        _log.info("draining", signal=number.name, timeout_s=self._settings.drain_timeout_s)
        self._app.state.is_draining = True
        if self._replica is not None:
            self._replica.is_now(State.STOPPING)
        if self._connections is not None:
            self._connections.drain()
        # In this turn of the loop: each answer closes its connection from now on, and has to say that no call is taken.
        services: Services = self._app.state.services
        services.jobs.refuse()
        services.reloader.refuse()
        services.pool_set.refuse()
        self._drain = asyncio.get_running_loop().create_task(self._stop_pools())
        self._drain.add_done_callback(self._drained)

    def _reload_requested(self, number: signal.Signals) -> None:
        if self.started and self._drain is None:  # a start reads the newest code anyway
            services: Services = self._app.state.services
            # The supervisor hands the signal to all replicas: one of them tells the history.
            is_told = self._replica is not None and self._replica.index > 0
            services.reloader.reload_soon(replace(ON_SIGNAL, is_told=is_told))

    async def _stop_pools(self) -> None:
        """Drains the pools, and closes them whatever comes of that."""
        services: Services = self._app.state.services
        try:
            services.recorder.draining(self._seconds_left(self._settings.drain_timeout_s))
            services.ramp.rest()
            await self._wait_for_drain(services.pool_set)
        finally:
            try:
                self._app.state.console.hub.close()  # until now the open tabs have shown the drain
            finally:
                await services.pool_set.aclose_engines()

    async def _wait_for_drain(self, pools: PoolSet) -> None:
        """Waits until all pools are drained, `DRAIN_TIMEOUT_S` are over, or a second signal comes."""
        drained = asyncio.ensure_future(pools.drain())
        skipped = asyncio.ensure_future(self._skips_drain.wait())
        waits = (drained, skipped)
        done, _ = await asyncio.wait(waits, timeout=self._settings.drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            _log.warning("drain timed out; what still runs is ended", timeout_s=self._settings.drain_timeout_s)
        elif skipped in done:
            _log.warning("drain skipped; what still runs is ended")
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
        if drained in done:
            drained.result()  # raises what kept the pools from being drained

    @staticmethod
    def _seconds_left(seconds: float) -> Callable[[], float]:
        end = time.monotonic() + seconds
        return lambda: end - time.monotonic()

    def _drained(self, drain: asyncio.Task[None]) -> None:
        if not drain.cancelled() and (error := drain.exception()) is not None:
            _log.error("drain failed", exc_info=error)
        self.should_exit = True


def _limits(settings: Settings, part: Callable[[int], int]) -> Limits:
    """The limits of one replica's connections; each replica has an equal share of the memory for answers."""
    return Limits(
        head_s=settings.head_timeout_s,
        body_s=settings.body_timeout_s,
        answer_s=settings.answer_timeout_s,
        unread_bytes=part(settings.max_unread_bytes),
    )


def serve(settings: Settings) -> bool:
    """Runs the service until it is told to stop; returns whether it had started.

    Raises:
        InvalidKeyFile: `API_KEYS_FILE` is missing or makes no sense.
        CannotListen: see `Server.run`.
    """
    open_many_files()
    # A body and its copies on the way: the kernel takes 2 ms to clear the pages of each new megabyte.
    keep_freed_memory(max(KEPT_BYTES, 8 * settings.max_body_bytes))
    protect(settings)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nothing here looks at
    app = create_app(settings)
    count = replicas_of(settings)
    if count > 1:
        return _serve_replicas(app, settings, count)
    server = Server(app, settings)
    server.run()
    return server.started


def _serve_replicas(app: Application, settings: Settings, count: int) -> bool:
    listeners = listening.listen(settings.host, settings.port)
    try:
        share = claim_for_replicas(settings.database_url.get_secret_value())
    except StoreUnavailable as error:
        _log.error(str(error))
        sys.exit(STARTUP_FAILURE)
    # Imported here, and before the forks: a service that is one process does without the HTTP client.
    from app.replicas import peers  # noqa: F401, PLC0415

    gc.freeze()  # a collection in a fork would copy every page

    def run(machine: Machine, index: int) -> None:
        name_replica(index)
        app.state.replica = replica = Replica(machine, index)
        Server(app, settings, replica).run(listeners)

    return Supervisor(count, listeners, share, run).run()


def replicas_of(settings: Settings) -> int:
    """The replicas that the settings ask for, and no more than each can have a worker of each pool."""
    wished = settings.web_concurrency
    most = min(settings.pool(version).pool_size for version in settings.pool_versions)
    if wished > most:
        _log.warning(
            "fewer replicas than asked for: each needs a worker of each pool", WEB_CONCURRENCY=wished, replicas=most
        )
    return min(wished, most)
