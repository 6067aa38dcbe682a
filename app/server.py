"""Runs the application under uvicorn, and ends it in order: unready, drain, stop."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Iterator

import structlog
import uvicorn
from prometheus_client import disable_created_metrics

from app import listening
from app.application import Application, create_app
from app.execute.protocol import LaneProtocol
from app.services import Services
from config.settings import Settings
from poolshift.worker.linux import open_many_files

_log = structlog.stdlib.get_logger("poolshift")


class Server(uvicorn.Server):
    """A server that, on SIGTERM or SIGINT, finishes what it has accepted before it stops.

    1. Unready: `/readyz` says 503, new calls are answered `pool_closed`.
    2. Drain: accepted calls go on, at most for `DRAIN_TIMEOUT_S`.
    3. Stop: what still runs then is answered `pool_closed`; the sockets close, the workers end.

    A second signal skips the drain.
    """

    def __init__(self, app: Application, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=LaneProtocol,  # type: ignore[arg-type]  # no subclass of asyncio.Protocol, but one
                interface="asgi3",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,  # nothing here goes by the client's address
                server_header=False,
                backlog=listening.BACKLOG,
                reset_contextvars=True,  # a request that came early is begun by the one before it
                timeout_graceful_shutdown=5,
            )
        )
        self._app = app
        self._host, self._port = settings.host, settings.port
        self._drain_timeout_s = settings.drain_timeout_s
        self._drain: asyncio.Task[None] | None = None

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until it is told to stop, where the settings say unless `sockets` listen already.

        Raises:
            CannotListen: the port is taken, or there is no such address. Nothing has been touched then.
        """
        super().run(sockets or listening.listen(self._host, self._port))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which does not say where it listens on sockets that are handed to it."""
        await super().startup(sockets)
        _log.info("listening", urls=[listening.url(sock) for sock in sockets or ()])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes the place of uvicorn's handlers, which would stop at once and then die of the signal."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self._stop_requested, number)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def _stop_requested(self, number: signal.Signals) -> None:
        if not self.started:  # nothing has been accepted yet: it stops as soon as it has started
            self.should_exit = True
            return
        if self._drain is not None:
            self._drain.cancel()
            return
        _log.info("draining", signal=number.name, timeout_s=self._drain_timeout_s)
        self._app.state.is_draining = True
        self._drain = asyncio.get_running_loop().create_task(self._drain_pools())
        self._drain.add_done_callback(self._drained)

    async def _drain_pools(self) -> None:
        services: Services = self._app.state.services
        pools = services.pools.values()
        end = time.monotonic() + self._drain_timeout_s
        services.recorder.draining(lambda: end - time.monotonic())
        services.jobs.refuse()
        for pool in pools:
            pool.refuse()
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                while not all(pool.is_drained for pool in pools):  # a change of the rollout still moves calls over
                    await asyncio.gather(*(pool.drain() for pool in pools))
        except TimeoutError:
            _log.warning("drain timed out; what still runs is ended", timeout_s=self._drain_timeout_s)
        await asyncio.gather(*(pool.aclose() for pool in pools))

    def _drained(self, drain: asyncio.Task[None]) -> None:
        if not drain.cancelled() and (error := drain.exception()) is not None:
            _log.error("drain failed", exc_info=error)
        self.should_exit = True


def serve(settings: Settings) -> bool:
    """Runs the service until it is told to stop; whether it had started.

    Raises:
        InvalidKeyFile: `API_KEYS_FILE` is missing or makes no sense.
        CannotListen: see `Server.run`.
    """
    open_many_files()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nothing here looks at
    server = Server(create_app(settings), settings)
    server.run()
    return server.started
