"""Runs DSPy modules on the LM of a call: within its time, with its failures told apart and its tokens counted."""

import asyncio
import logging
import signal
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, get_origin

import dspy

from poolshift.worker.dspy import lm_spans
from poolshift.worker.dspy.redaction import redacted
from poolshift.worker.dspy.streaming import OutputEvents, run_streamed
from poolshift.worker.dspy.tools import is_at_a_tool
from poolshift.worker.errors import InvalidOutputs, LMError
from poolshift.worker.exception_text import truncate
from poolshift.worker.lm import MAX_TOKENS, LMRun, LMSettings, LMUsage, token_count

MAX_LMS = 32
"""The number of LMs to which a worker keeps connections."""
MAX_DETAIL_LENGTH = 2000
"""The length of a quotation of an LM or of its endpoint; a longer one is cut."""
_ALARM_INTERVAL_S = 0.1

logging.getLogger("LiteLLM").setLevel(logging.WARNING)  # it says at each call that it is called

# An answer is the LM's, never a memory's: what one session was told is nothing for another.
dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)


class _OutOfTime(BaseException):
    """The LM took too long; none of the libraries underneath may take it for a failure to be retried."""


class _SchemaLM(dspy.LM):  # type: ignore[misc]
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
        lm = (_SchemaLM if settings.decodes_schema else dspy.LM)(
            settings.model,
            api_base=settings.api_base,
            api_key=settings.api_key,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            cache=False,
            num_retries=0,
        )
    _lms[settings] = lm
    if len(_lms) > MAX_LMS:
        _lms.popitem(last=False)[1].close()
    return lm


def ask(module: dspy.Module, lm: LMRun, arguments: dict[str, Any], events: OutputEvents | None) -> dspy.Prediction:
    """Runs a module on the LM, which tells `events` what it writes, if somebody listens.

    Raises whatever DSPy does: see `failures_of`.
    """
    adapter = _SchemaAdapter() if lm.settings.decodes_schema else dspy.ChatAdapter()
    heard = lm_spans.callbacks()
    with dspy.context(lm=_lm_of(lm.settings), adapter=adapter, disable_history=True, trace=None, callbacks=heard):
        if events is not None:
            return _loop().run_until_complete(_ask_streamed(module, lm, arguments, events))
        with _no_longer_than(lm.budget_s):
            return module(**arguments)


def _loop() -> asyncio.AbstractEventLoop:
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


async def _ask_streamed(
    module: dspy.Module, lm: LMRun, arguments: dict[str, Any], events: OutputEvents
) -> dspy.Prediction:
    answer = asyncio.ensure_future(run_streamed(module, arguments, events))
    done, _ = await asyncio.wait({answer}, timeout=lm.budget_s)
    if not done:
        answer.cancel()
        await asyncio.wait({answer})
        raise _OutOfTime
    return answer.result()


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    """Raises _OutOfTime in the block after `seconds`, and again until it is heard.

    A timeout of the connection would not do: an endpoint that sends a byte now and then never runs into it. A tool is
    not the LM, and not interrupted: one that runs at the deadline ends as any program does.
    """

    def ring(*_: object) -> None:
        if not is_at_a_tool():
            raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _ALARM_INTERVAL_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def failures_of(settings: LMSettings) -> Iterator[None]:
    """Whatever goes wrong in the block is the LM's: the programs have no code of their own, their tools never raise."""
    try:
        yield
    except _OutOfTime:
        lm = _lms.pop(settings, None)  # its connection is amid an answer
        if lm is not None:
            lm.close()
        raise LMError("the LM did not answer in time") from None
    except dspy.AdapterParseError as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.lm_response, settings)) from None
    except InvalidOutputs as error:
        raise LMError(_detail("the LM's answer does not fit the signature", error.detail, settings)) from None
    except dspy.LMError as error:
        raise LMError(
            _detail(type(error).__name__.removeprefix("LM"), error.message, settings), retry_after_s=error.retry_after
        ) from None
    except Exception as error:
        raise LMError(_detail(type(error).__name__, str(error), settings)) from error


def _detail(what: str, said: object, settings: LMSettings) -> str:
    """The text for the caller, without the key, which some endpoints repeat when they refuse it."""
    text = f"{what}: {said}"
    if settings.api_key:
        text = redacted(text, settings.api_key)
    return truncate(text, MAX_DETAIL_LENGTH)


def total(entries_of_models: Iterable[list[dict[str, Any]]]) -> LMUsage:
    """The tokens of all calls of the LM; what an endpoint does not tell, or what cannot be, counts as none."""
    entries = [entry for entries in entries_of_models for entry in entries]
    return LMUsage(_sum(entries, "prompt_tokens"), _sum(entries, "completion_tokens"))


def _sum(entries: list[dict[str, Any]], name: str) -> int:
    return min(sum(token_count(entry.get(name)) for entry in entries), MAX_TOKENS)
