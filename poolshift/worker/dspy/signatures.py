"""Signatures that DSPy knows and the program's creator did not write down: of its string form, and of a module."""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints

import dspy
import msgspec
from pydantic_core import PydanticUndefined

from poolshift.worker.definitions import Field, Signature
from poolshift.worker.dspy.annotations import input_of, output_of
from poolshift.worker.dspy.returned import outputs_of, returned_names
from poolshift.worker.exception_text import describe
from poolshift.worker.loading import EntrypointError

_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "list", "dict", "Literal", "Optional", "Any"})
_DSPY_TYPE_NAMES = frozenset({"Image", "History"})


def parse_text(text: str) -> type[dspy.Signature]:
    """Lets DSPy parse its string form, such as `question -> answer: float`.

    DSPy would import a module that the text names: only the types that are listed here are allowed.

    Raises:
        EntrypointError: it is not DSPy's form, or names another type.
    """
    try:
        for side in text.split("->"):
            _check_types(side)
        parsed: type[dspy.Signature] = dspy.make_signature(text)
    except EntrypointError:
        raise
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, AttributeError) as error:
        raise EntrypointError(
            f"not a signature of DSPy's string form: {describe(error).detail}", at="signature"
        ) from None
    return parsed


def _check_types(side: str) -> None:
    (function,) = ast.parse(f"def f({side.strip()}): pass").body
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    if any((arguments.posonlyargs, arguments.vararg, arguments.kwonlyargs, arguments.kwarg, arguments.defaults)):
        raise EntrypointError("a field of DSPy's string form has a name and a type alone", at="signature")
    for argument in arguments.args:
        if argument.annotation is not None:
            _check_type(argument.annotation)


def _check_type(node: ast.expr) -> None:
    match node:
        case ast.Name(id=name) if name in _TYPE_NAMES:
            return
        case ast.Attribute(value=ast.Name(id="dspy"), attr=name) if name in _DSPY_TYPE_NAMES:
            return
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            if all(isinstance(one, ast.Constant) for one in _elements(values)):
                return
        case ast.Subscript(value=ast.Name() as base, slice=arguments):
            for one in (base, *_elements(arguments)):
                _check_type(one)
            return
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            for one in (left, right):
                _check_type(one)
            return
        case ast.Constant(value=None):
            return
    raise EntrypointError(f"{ast.unparse(node)} is not a type of the string form", at="signature")


def _elements(node: ast.expr) -> Iterable[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else (node,)


def signature_of(parsed: type[dspy.Signature], text: str | None = None) -> Signature:
    """Derives the program's signature from DSPy's. Raises EntrypointError."""
    inputs = tuple(_input(name, info) for name, info in parsed.input_fields.items())
    return Signature(inputs, _outputs(parsed.output_fields), text=text)


def _outputs(fields: Mapping[str, Any]) -> tuple[Field, ...]:
    return tuple(
        output_of(name, info.annotation, description=_description(name, info)) for name, info in fields.items()
    )


def _description(name: str, info: Any) -> str | None:
    description: str | None = info.json_schema_extra.get("desc")
    return None if description == f"${{{name}}}" else description


def _input(name: str, info: Any) -> Field:
    is_default = info.default is not PydanticUndefined
    return input_of(
        name,
        info.annotation,
        description=_description(name, info),
        required=not is_default,
        default=info.default if is_default else None,
    )


class Parameter(NamedTuple):
    """An input of a module: its annotation, and its default if it has one."""

    annotation: Any
    is_required: bool
    default: Any
    description: str | None


def parameters_of(module: dspy.Module, forward: Callable[..., Any]) -> dict[str, Parameter] | None:
    """Finds the inputs of a module; None if its `forward` does not tell them.

    A parameter of `forward` without an annotation has the type of the predictors' input of its name. A `forward` that
    takes any keywords has the inputs of the module's only predictor.

    Raises:
        EntrypointError: an annotation cannot be resolved.
    """
    try:
        hints = get_type_hints(forward, include_extras=True)
    except Exception as error:
        raise EntrypointError(f"the annotations of {forward.__name__}: {describe(error).detail}") from None
    infos = {name: info for one in module.predictors() for name, info in one.signature.input_fields.items()}
    found = {}
    for name, parameter in inspect.signature(forward).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        info = infos.get(name)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY) or (
            name not in hints and info is None
        ):
            return None
        is_required = parameter.default is parameter.empty
        annotation = hints.get(name, getattr(info, "annotation", Any))
        default = None if is_required else parameter.default
        found[name] = Parameter(annotation, is_required, default, None if info is None else _description(name, info))
    if found:
        return found
    return _of_one_predictor(module)


def _of_one_predictor(module: dspy.Module) -> dict[str, Parameter] | None:
    predictors = module.predictors()
    if len(predictors) != 1:
        return None
    return {
        name: Parameter(info.annotation, info.is_required(), None if info.is_required() else info.default, None)
        for name, info in predictors[0].signature.input_fields.items()
    }


def derive_signature(
    module: dspy.Module, forward: Callable[..., Any], parameters: Mapping[str, Parameter] | None
) -> Signature:
    """Derives the signature of a module: the inputs and the outputs of its `forward`.

    An output has the type of the predictor's output of its name, the last one made first; one that the module's own
    code makes has the type `any`. If `forward` does not tell its outputs, they are those of the last predictor.

    Raises:
        EntrypointError: the module does not tell its inputs or outputs.
    """
    predictors = module.predictors()
    if parameters is None or not predictors:
        lacking = "annotated parameters of forward" if parameters is None else "predictors"
        raise EntrypointError(f"the module has no {lacking} to tell a signature by: give it one", at="signature")
    inputs = tuple(
        input_of(name, one.annotation, description=one.description, required=one.is_required, default=one.default)
        for name, one in parameters.items()
    )
    names = returned_names(module, forward)
    if not names:
        return Signature(inputs, _outputs(outputs_of(predictors[-1])), derived=True)
    known = output_infos(module)
    outputs = tuple(_output(name, known.get(name), is_always=is_always) for name, is_always in names.items())
    return Signature(inputs, outputs, derived=True)


def output_infos(module: dspy.Module) -> Mapping[str, Any]:
    """Returns the output fields of all predictors by name; of several with one name that of the last predictor."""
    return {name: info for one in module.predictors() for name, info in one.signature.output_fields.items()}


def _output(name: str, info: Any, *, is_always: bool) -> Field:
    if info is None:
        return Field(name, "any", required=is_always)
    field = output_of(name, info.annotation, description=_description(name, info))
    return field if is_always else msgspec.structs.replace(field, required=False)
