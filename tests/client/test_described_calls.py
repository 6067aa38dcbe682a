"""The client knows what the service knows: its error codes, its paths, and the fields of its answers."""

import inspect
import pickle
from typing import Any

import pytest

from app.problem_kinds import KINDS
from app.problems import Problem
from poolshift.client import (
    AsyncClient,
    Client,
    PoolshiftError,
)
from poolshift.client.problems import CLASSES, read_problem
from tests.support.documented import document

DOCUMENT: dict[str, Any] = document()
METHODS = ("get", "put", "post", "patch", "delete")
ARGUMENTS: dict[str, Any] = {"inputs": [], "definition": {}, "plan": {}, "model": "none"}
"""Values of the arguments that are not a part of the path."""


@pytest.mark.parametrize("code", KINDS)
def test_each_code_has_its_class(code: str) -> None:
    """A problem of the service becomes the class of its code, with all members of the problem."""
    problem = Problem(code, "so it is", retry_safe=False, retry_after_s=6.2, extensions={"field": "text"})
    error = read_problem(problem.kind.status, problem.body(execution_id="e1", pool_version="v2"), "7")
    assert error is not None
    assert type(error) is CLASSES[code]
    assert type(error).__name__.lower() == code.replace("_", "")
    assert (type(error).status, type(error).category) == (problem.kind.status, problem.kind.category)
    assert (error.code, error.status, error.category, error.detail) == (code, *vars_of(problem), "so it is")
    assert (error.execution_id, error.pool_version, error.retry_after) == ("e1", "v2", 7)
    assert (error.retry_safe, error.extensions) == (False, {"field": "text"})
    assert str(error) == f"{code}: so it is"


def vars_of(problem: Problem) -> tuple[int, str]:
    return problem.kind.status, problem.kind.category


def test_no_class_is_left_over() -> None:
    """Each class is that of a code which the service has."""
    assert CLASSES.keys() == KINDS.keys()


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b'{"code": 7}', b"<html>", b"\xff", b'{"code": "a"', b"[" * 100_000],
)
def test_another_error_page_is_not_a_problem(content: bytes) -> None:
    """Whatever a proxy answers."""
    assert read_problem(502, content) is None


def test_a_code_of_a_newer_service() -> None:
    """A code without a class is an error by the base class, with the service's word on repeating the call."""
    error = read_problem(503, b'{"code": "too_hot", "detail": "wait", "status": 503, "retry_safe": true}', "1")
    assert error is not None
    assert type(error) is PoolshiftError
    assert (error.code, error.status, error.retry_safe, error.retry_after) == ("too_hot", 503, True, 1)
    assert error.is_transient


def test_an_error_can_be_sent_to_another_process() -> None:
    """Executors pickle errors."""
    error = read_problem(503, Problem("pool_overloaded", "full", extensions={"a": 1}).body(execution_id="e"), "3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert vars(again) == vars(error)


def methods(client: type) -> dict[str, inspect.Signature]:
    """The public methods of a client and of its groups, with the types of their arguments and answers."""
    instance = client("http://127.0.0.1:1")
    groups = {"": instance, **{name: group for name, group in vars(instance).items() if not name.startswith("_")}}
    return {
        f"{prefix}.{name}": inspect.signature(getattr(group, name))
        for prefix, group in groups.items()
        for name in dir(group)
        if not name.startswith("_") and callable(getattr(group, name))
    }


def test_both_clients_have_the_same_methods() -> None:
    """With the same arguments; only the answers differ, by being awaited."""
    threads, coroutines = methods(Client), methods(AsyncClient)
    coroutines[".close"] = coroutines.pop(".aclose")
    assert threads.keys() == coroutines.keys()
    assert len(threads) > 40
    for name, signature in threads.items():
        assert str(signature.parameters) == str(coroutines[name].parameters), name


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_class_tells_its_methods(client: type) -> None:
    """An editor and `help` ask the class, which has no connection."""
    instance = client("http://127.0.0.1:1")
    for group, name in ((instance, "execute"), (instance.programs, "list"), (instance.jobs, "events")):
        of_class, of_instance = getattr(type(group), name), getattr(group, name)
        (first, *arguments), signature = inspect.signature(of_class).parameters.values(), inspect.signature(of_instance)
        assert first.name == "self"
        assert arguments == list(signature.parameters.values())
        assert inspect.signature(of_class).return_annotation == signature.return_annotation
        assert of_class.__qualname__ == of_instance.__qualname__ == f"{type(group).__name__}.{name}"
        assert of_class.__doc__ == of_instance.__doc__
