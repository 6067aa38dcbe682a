"""Tries an LM on a worker before it is in force, by one small completion that is in no organic figure."""

import asyncio
import uuid
from typing import Final

from pools.calls import Call, Program
from poolshift.worker.definitions import Definition, Signature
from poolshift.worker.lm import LMSettings
from routing.router import Router
from routing.versions import Version

OPERATION: Final = "synthetic"
_PROGRAM: Final = Program("trial of an LM", "lm-trial", Definition("lm_trial", Signature((), ())))


async def try_lm(router: Router, settings: LMSettings, version: Version, timeout_s: float) -> None:
    """Asks the LM for a word, on a worker of `version`.

    Raises:
        LMError: the LM failed, and how.
        ExecutionError: the trial could not be carried out, such as for want of DSPy or of a free worker.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    call = Call(uuid.uuid4().hex, _PROGRAM, b"{}", deadline, lm=settings)
    await router.execute(router.synthetic(version, None), call, OPERATION)
