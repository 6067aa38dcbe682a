"""The outputs that the `forward` of a module returns, as far as its source tells them."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import dspy

REASONING = "reasoning"
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def returned_names(module: dspy.Module, forward: Callable[..., Any]) -> dict[str, bool] | None:
    """Names the outputs of all `return` statements in their order, and tells if each of these has the output.

    A prediction or a dict with names in it tells them, and so does the call of a predictor. None if one tells nothing.
    """
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(forward))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    if not isinstance(function, _Function):
        return None
    told = [_names(module, one.value) for one in _returns(function.body)]
    known = [names for names in told if names is not None]
    if not known or len(known) < len(told):
        return None
    every = dict.fromkeys(name for names in known for name in names)
    return {name: all(name in names for names in known) for name in every}


def outputs_of(predictor: dspy.Predict) -> dict[str, Any]:
    """Returns the output fields of a predictor, without a reasoning beside others."""
    fields: dict[str, Any] = predictor.signature.output_fields
    return {name: info for name, info in fields.items() if name != REASONING} or fields


def _returns(body: list[ast.stmt]) -> Iterator[ast.Return]:
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Return):
            yield node
        elif not isinstance(node, _INNER):
            waiting += reversed(list(ast.iter_child_nodes(node)))


def _names(module: dspy.Module, value: ast.expr | None) -> list[str] | None:
    """Names the outputs of one returned expression; None if they cannot be told."""
    match value:
        case ast.Await(value=inner):
            return _names(module, inner)
        case ast.Dict(keys=keys):
            names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
            return names if len(names) == len(keys) else None
        case ast.Call(func=ast.Name(id="Prediction") | ast.Attribute(attr="Prediction"), args=[], keywords=keywords):
            given = [one.arg for one in keywords if one.arg is not None]
            return given if len(given) == len(keywords) else None
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="self"), attr=name)
            | ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=name), attr="acall")
        ):
            return _of_predictor(module, name)
    return None


def _of_predictor(module: dspy.Module, name: str) -> list[str] | None:
    """Names the outputs of a member of the module that is a predictor, or a module of DSPy's with one predictor."""
    member = vars(module).get(name)
    if isinstance(member, dspy.Predict):
        return list(outputs_of(member))
    predictors = member.predictors() if isinstance(member, dspy.Module) else []
    return list(outputs_of(predictors[0])) if len(predictors) == 1 else None
