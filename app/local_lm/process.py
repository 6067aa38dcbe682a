"""Keeps the small model's process (`app.local_lm.server`) alive and knows where it listens."""

import asyncio
import secrets
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress

import msgspec
import structlog

from common import own_process
from common.background import Background
from common.backoff import backoff_s
from poolshift.worker.lm import LOCAL_MODEL_NAME, LMSettings

START_TIMEOUT_S = 60.0
MAX_TOKENS = 512
"""Unless the settings say otherwise, as for the temperature: a small model that is lost does not find its own end."""
_log = structlog.stdlib.get_logger("poolshift.lm")


class _Listening(msgspec.Struct):
    url: str


class LocalLMServer:
    """The model's process: started, and started again if it dies, until it is closed."""

    def __init__(self, environment: Mapping[str, str], background: Background) -> None:
        self._environment = dict(environment)
        self._endpoint: LMSettings | None = None
        self._background = background
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    def endpoint(self) -> LMSettings | None:
        """The address and key of the model; None while it is down."""
        return self._endpoint

    async def start(self) -> None:
        """Returns when it is up for the first time, or could not be started."""
        self._task = self._background.run("local_lm", self._keep_running)
        await self._settled.wait()

    async def aclose(self) -> None:
        """Ends it."""
        if self._task is not None:
            await self._background.stop(self._task)

    async def _keep_running(self) -> None:
        failures = 0
        while True:
            if await self._run_once():
                failures = 0
            failures += 1
            _log.warning("the local model died and is started again", failures=failures)
            await asyncio.sleep(backoff_s(failures))

    async def _run_once(self) -> bool:
        """Runs it until it dies; whether it had come up."""
        key = secrets.token_urlsafe(32)  # other users of this machine can reach its port
        process = await own_process.start(
            "app.local_lm.server",
            variables=self._environment | {"LOCAL_LM_API_KEY": key},
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
        )
        try:
            await self._follow(process, key)
        finally:
            was_up, self._endpoint = self._endpoint is not None, None
            self._settled.set()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return was_up

    async def _follow(self, process: Process, key: str) -> None:
        """Reads what it says until it says no more."""
        assert process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S) as starting:
                async for line in process.stdout:
                    if self._endpoint is None and line.startswith(b"{"):
                        url = msgspec.json.decode(line, type=_Listening).url
                        self._endpoint = LMSettings(
                            f"openai/{LOCAL_MODEL_NAME}",
                            url,
                            key,
                            temperature=0.0,
                            max_tokens=MAX_TOKENS,
                            decodes_schema=True,
                        )
                        starting.reschedule(None)
                        self._settled.set()
                    else:
                        _log.info(line.decode(errors="replace").rstrip(), pid=process.pid)
