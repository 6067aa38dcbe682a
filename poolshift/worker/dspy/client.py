"""Runs DSPy modules on the LM of a call: within its time, with its failures told apart and its tokens counted."""

import asyncio
import inspect
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, get_origin

import dspy

from poolshift.worker.dspy import lm_spans
from poolshift.worker.dspy.lm_time import (
    OutOfTime,
    TimedLM,
    forget_requests,
    in_time,
    in_time_beside_others,
    no_longer_than,
)
from poolshift.worker.dspy.redaction import redacted
from poolshift.worker.errors import ExecutionError, InvalidOutputs, LMError, ProgramError
from poolshift.worker.exception_text import describe, traceback_of, truncate
from poolshift.worker.lm import LMRun, LMSettings

MAX_LMS = 32
"""The number of LMs to which a worker keeps connections."""
_OPENAI = "openai/"
NO_KEY = "no-key"
"""Stands for the key of a server that asks for none."""
MAX_DETAIL_LENGTH = 2000
"""The length of a quotation of an LM or of its endpoint; a longer one is cut."""

logging.getLogger("LiteLLM").setLevel(logging.WARNING)  # it says at each call that it is called

# An answer is the LM's, never a memory's: what one session was told is nothing for another.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


class _DiscreetLM(TimedLM):
    """An LM whose errors have its key masked: DSPy logs some of them, and a module's code may quote them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._discretion():
            return super().__call__(*args, **kwargs)

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with self._discretion():
            return await super().acall(*args, **kwargs)

    @contextmanager
    def _discretion(self) -> Iterator[None]:
        try:
            yield
        except dspy.LMError as error:
            if key := self.kwargs.get("api_key"):
                error.message = redacted(str(error.message), key)
                error.args = tuple(redacted(one, key) if isinstance(one, str) else one for one in error.args)
            raise error from None  # what it comes from has the key, too


class _SchemaLM(_DiscreetLM):
    """An LM whose endpoint decodes under a JSON schema, whatever DSPy's catalogue knows of its model."""

    @property
    def supports_response_schema(self) -> bool:
        return True

    @property
    def supported_params(self) -> set[str]:
        return {*super().supported_params, "response_format"}


class _SchemaAdapter(dspy.JSONAdapter):  # type: ignore[misc]
    """Shows no form to be filled in, but where DSPy has no schema for it: a small model would copy it."""

    def format_field_structure(self, signature: type[dspy.Signature]) -> str:
        if _has_objects(signature):
            return str(super().format_field_structure(signature))
        return "Answer with a JSON object of the output fields."

    def user_message_output_requirements(self, signature: type[dspy.Signature]) -> str:
        if _has_objects(signature):
            return str(super().user_message_output_requirements(signature))
        return f"Respond with: {', '.join(signature.output_fields)}"


def _has_objects(signature: type[dspy.Signature]) -> bool:
    return any(get_origin(one.annotation) is dict for one in signature.output_fields.values())


_loops: list[asyncio.AbstractEventLoop] = []
"""One event loop for all streams: it begins with the first, in the worker, and keeps the connections of LMs."""
_lms: OrderedDict[LMSettings, dspy.LM] = OrderedDict()
"""The LMs with their connections, the one used last at the end."""


def _lm_of(settings: LMSettings) -> dspy.LM:
    lm = _lms.pop(settings, None)
    if lm is None:
        # No retries: a worker that waits for an LM's better days is missing elsewhere, and the caller knows better.
        lm = (_SchemaLM if settings.decodes_schema else _DiscreetLM)(
            settings.model,
            api_base=settings.api_base,
            **_key_of(settings),
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            cache=False,
            num_retries=0,
        )
    _lms[settings] = lm
    if len(_lms) > MAX_LMS:
        _lms.popitem(last=False)[1].close()
    return lm


def _key_of(settings: LMSettings) -> dict[str, str]:
    """The key as an argument of an LM. Without one DSPy takes the provider's variable, or the provider's own stand-in.

    A server of the user's own that speaks OpenAI's API, such as vLLM, need not ask for a key, and DSPy asks for one.
    """
    if settings.api_key is not None:
        return {"api_key": settings.api_key}
    is_own_server = settings.api_base is not None and settings.model.startswith(_OPENAI)
    return {"api_key": NO_KEY} if is_own_server and not os.environ.get("OPENAI_API_KEY") else {}


@contextmanager
def lm_context(settings: LMSettings) -> Iterator[None]:
    """Makes DSPy use an LM as a call would: a notebook that enters this gets the same outputs."""
    with dspy.context(lm=_lm_of(settings), adapter=_SchemaAdapter() if settings.decodes_schema else dspy.ChatAdapter()):
        yield


def ask(lm: LMRun, run: Callable[[], Any]) -> Any:
    """Calls `run` on the LM and returns its result, or the result of the coroutine that it returns.

    Raises whatever `run` does: see `failures_of` and `lm_failures_of`.
    """
    forget_requests()
    heard = lm_spans.callbacks()
    with lm_context(lm.settings), dspy.context(disable_history=True, trace=None, callbacks=heard):
        if inspect.iscoroutinefunction(run):
            return _loop().run_until_complete(in_time(run(), lm.budget_s))
        with no_longer_than(lm.budget_s):
            return run()


async def ask_beside_others(lm: LMRun, run: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """As `ask`, in a task of an event loop that many calls share."""
    heard = lm_spans.callbacks()
    with lm_context(lm.settings), dspy.context(disable_history=True, trace=None, callbacks=heard):
        return await in_time_beside_others(run(), lm.budget_s)


def _loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


@contextmanager
def lm_failures_of(settings: LMSettings) -> Iterator[None]:
    """Turns a failure of the LM in the block into an LMError; DSPy raises exceptions of its own for them."""
    try:
        yield
    except OutOfTime as error:
        lm = _lms.pop(settings, None) if error.is_amid_answer else None
        if lm is not None:
            lm.close()
        raise LMError("the LM did not answer in time") from None
    except dspy.AdapterParseError as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.lm_response, settings)) from None
    except dspy.LMError as error:
        raise LMError(
            _detail(type(error).__name__.removeprefix("LM"), error.message, settings), retry_after_s=error.retry_after
        ) from None


@contextmanager
def failures_of(settings: LMSettings) -> Iterator[None]:
    """Whatever goes wrong in the block is the LM's: the programs have no code of their own, their tools never raise."""
    try:
        with lm_failures_of(settings):
            yield
    except LMError:
        raise
    except InvalidOutputs as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.detail, settings)) from None
    except Exception as error:
        raise LMError(_detail(type(error).__name__, str(error), settings)) from error


@contextmanager
def without_key_of(settings: LMSettings) -> Iterator[None]:
    """Keeps the LM's key out of the errors of a program's own code, which may quote what an endpoint said."""
    try:
        yield
    except ExecutionError:
        raise
    except Exception as error:
        if settings.api_key:
            whole = traceback_of(error)
            if redacted(whole, settings.api_key) != whole:  # then the log does not get it
                raise ProgramError(redacted(describe(error).detail, settings.api_key)) from None
        raise


def _detail(what: str, said: object, settings: LMSettings) -> str:
    """The text for the caller, without the key, which some endpoints repeat when they refuse it."""
    text = f"{what}: {said}"
    if settings.api_key:
        text = redacted(text, settings.api_key)
    return truncate(text, MAX_DETAIL_LENGTH)
