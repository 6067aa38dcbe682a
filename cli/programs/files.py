"""Files with definitions of programs, each definition with the place that it has in its file."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.errors import CommandFailed, ExitCode

SUFFIXES = (".yaml", ".yml", ".json")
STANDARD_INPUT = Path("-")


class WrongDocument(Exception):
    """A document, or a whole file, that is not a program; the place is its file and, if known, the line."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self._place = place

    def place(self) -> str:
        """Returns the file and, if known, the line."""
        return self._place


@dataclass(frozen=True, slots=True)
class Document:
    """A definition as its author wrote it."""

    file: str
    content: dict[str, Any]
    node: yaml.Node | None
    """The definition with its lines; None if the file has lines for JSON alone."""

    def place(self, at: Sequence[str] = ()) -> str:
        """Returns the file and the line of a member, or of the innermost part of the way to it that is there."""
        line = None if self.node is None else _line(self.node, at)
        return self.file if line is None else f"{self.file}:{line}"


def files_in(paths: Iterable[Path]) -> list[Path]:
    """Lists the files, and those in the folders, in the order of their paths. Hidden ones in a folder are left out.

    Raises:
        CommandFailed: a path does not exist, or a folder has no such file.
    """
    files: list[Path] = []
    for path in paths:
        if path == STANDARD_INPUT or path.is_file():
            files.append(path)
        elif path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES and _is_shown(one, path))
            if not found:
                raise CommandFailed(ExitCode.USAGE, f"{path}: the folder has no file *.yaml, *.yml or *.json")
            files += found
        else:
            raise CommandFailed(ExitCode.USAGE, f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def documents_of(file: Path) -> Iterator[Document | WrongDocument]:
    """Reads the definitions in a file: YAML documents, lists, or JSON if the file is named so."""
    try:
        text = sys.stdin.read() if file == STANDARD_INPUT else file.read_text(encoding="utf-8")
        parts = list(_of_json(text) if file.suffix == ".json" else _of_yaml(text))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        yield _unread(file, error)
        return
    for content, node in parts:
        document = Document(str(file), content, node)
        yield document if isinstance(content, dict) else WrongDocument(document.place(), "a program is an object")


def _unread(file: Path, error: Exception) -> WrongDocument:
    """Says on which line a file is no YAML or no JSON, as far as the parser tells."""
    match error:
        case yaml.MarkedYAMLError():
            mark = error.problem_mark or error.context_mark
            message = ", ".join(part for part in (error.context, error.problem) if part)
            return WrongDocument(str(file) if mark is None else f"{file}:{mark.line + 1}", message)
        case json.JSONDecodeError():
            return WrongDocument(f"{file}:{error.lineno}", error.msg)
        case OSError():
            return WrongDocument(str(file), error.strerror or type(error).__name__)
        case RecursionError():
            return WrongDocument(str(file), "nested too deeply")
    return WrongDocument(str(file), str(error))


def _is_shown(file: Path, folder: Path) -> bool:
    # A link to a file that is not there is told later: in silence its program would stay as it was.
    is_broken_link = file.is_symlink() and not file.exists()
    return (file.is_file() or is_broken_link) and not any(
        part.startswith(".") for part in file.relative_to(folder).parts
    )


def _of_json(text: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    content = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:  # such as a tab between two members
        node = None
    yield from _each(content, node)


def _of_yaml(text: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            yield from _each(loader.construct_document(node), node)
    finally:
        loader.dispose()


def _each(content: Any, node: yaml.Node | None) -> Iterator[tuple[Any, yaml.Node | None]]:
    """The items of a list, or the one that there is; none of an empty document."""
    if isinstance(content, list):
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [None] * len(content)
        yield from zip(content, nodes, strict=True)
    elif content is not None:
        yield content, node


class _Loader(yaml.SafeLoader):
    """Reads YAML that has a JSON: no dates, no other numbers, no key twice. Each error has its line."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001,FBT002
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is not text", key.start_mark)
            if name in seen and name != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = super().construct_yaml_float(node)
        if not math.isfinite(number):
            raise yaml.constructor.ConstructorError(None, None, f"{node.value} has no JSON", node.start_mark)
        return number

    def refuse(self, node: yaml.Node) -> None:
        """Raises for a kind of value that JSON does not have."""
        problem = f"{node.value!r} has no JSON; text needs quotes"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.refuse)


def _line(node: yaml.Node, at: Sequence[str]) -> int:
    line = node.start_mark.line
    for step in at:
        found = _step(node, step)
        if found is None:
            break
        line, node = found
    return int(line) + 1


def _step(node: yaml.Node, name: str) -> tuple[int, yaml.Node] | None:
    """One step into a node: the line of the member and its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == name:
                return key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and name.isdecimal() and int(name) < len(node.value):
        item = node.value[int(name)]
        return item.start_mark.line, item
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} has no JSON")


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in members]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the key {name!r} is there twice")
    return dict(members)
