"""Reads a file that an operator mounts, and the YAML or JSON in it. No content stops the service."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

MAX_BYTES = 1024 * 1024
_PROBLEMS_TOLD = 3
_NAME_LENGTH = 40
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?")
_NEITHER = "this is neither YAML nor JSON"


class InvalidDocument(Exception):
    """The content is not YAML or JSON, or uses a feature that is not accepted. The message shows nothing of it."""


def read(path: Path) -> bytes:
    """Reads a regular file. A network file system may take long, so this is not for the event loop.

    Raises:
        OSError: it cannot be read, is not a regular file (a pipe may never end), or is over `MAX_BYTES`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # or the open of a pipe would wait for its writer
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "this is no regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"this is over {MAX_BYTES} bytes", str(path))
    return content


def look(path: Path) -> bytes | OSError:
    """Reads as `read` does, and returns an OSError instead of raising it."""
    try:
        return read(path)
    except OSError as error:
        return error


def parse(content: bytes) -> Any:
    """Parses a document. Numbers must be decimal, keys unique, and aliases are not accepted.

    A large one takes seconds, so this is not for the event loop.

    Raises:
        InvalidDocument: the content is not such a document.
    """
    try:
        return yaml.load(content, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        problem = error.problem if isinstance(error, _Refusal) else _NEITHER
        place = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InvalidDocument(f"{place}{problem}") from None
    # PyYAML lets through whatever its constructors run into: a KeyError for `!!bool foo`, a ValueError for the 30th of
    # February, a RecursionError for a thousand brackets.
    except Exception:
        raise InvalidDocument(_NEITHER) from None


def problems(error: ValidationError, *, tells_names: bool = False) -> str:
    """Lists the errors of a document in one line, without its content.

    `tells_names` is for a document without secrets: an unknown name may be a secret in the wrong place elsewhere.
    """
    found = error.errors(include_input=False, include_url=False, include_context=False)
    told = [_line(problem, tells_names=tells_names) for problem in found[:_PROBLEMS_TOLD]]
    more = len(found) - len(told)
    return "; ".join([*told, f"and {more} more"] if more else told)


def _line(problem: ErrorDetails, *, tells_names: bool) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        name = f"{str(location[-1])[:_NAME_LENGTH]!r} " if tells_names else ""
        location = (*location[:-1], f"{name}(an unknown name)")
    place = ".".join(str(part) for part in location)
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


class _Refusal(yaml.MarkedYAMLError):
    """A feature of YAML that is not accepted."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _PlainLoader(yaml.SafeLoader):
    """A loader without the surprises of YAML 1.1, and without aliases, which make a small file large."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _Refusal("an alias is not taken", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value):
            raise _Refusal("a key stands twice", node.start_mark)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> float:
        """`010` would be 8, `0x10` 16 and `1:30` 90."""
        number = self.construct_scalar(node)
        if not isinstance(number, str) or not _DECIMAL.fullmatch(number):
            raise _Refusal("only a plain decimal number is taken", node.start_mark)
        return float(number) if "." in number else int(number)


for _tag in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _PlainLoader.construct_number)
