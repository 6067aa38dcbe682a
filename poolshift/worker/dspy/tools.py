"""The tools that a `react` program gives its LM: functions of the modules that the operator allows."""

import functools
import inspect
import logging
from typing import Any

import dspy

from poolshift.worker.exception_text import describe
from poolshift.worker.loading import EntrypointError, find_entrypoint

_log = logging.getLogger("poolshift.tools")


def tool(entrypoint: str, allowed_modules: tuple[str, ...]) -> dspy.Tool:
    """The function, as DSPy offers it to an LM: by its name, its docstring and its annotations.

    What it raises, the LM is told by type and message, as any caller would be; the traceback is in the log.

    Raises:
        EntrypointError: the function may not be called, or is not a plain one.
    """
    try:
        function = find_entrypoint(entrypoint, allowed_modules)
    except EntrypointError as error:
        raise EntrypointError(str(error), at="tools") from None
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise EntrypointError(f"{entrypoint} is async or a generator: a tool is a plain function", at="tools")

    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        try:
            return function(**arguments)
        except Exception as error:
            _log.warning("tool %s raised", entrypoint, exc_info=True)
            return describe(error).detail

    return dspy.Tool(call)
