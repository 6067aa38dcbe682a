"""Checks the rules of the house that no linter has: docstrings' first words, and the size of functions.

    python -m tools.house_rules [FILE …]

Without files it checks every tracked Python file. It prints one line for each fault, and exits with 1 if there is any.
"""

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

BANNED_FIRST_WORDS = frozenset("what who whose where whether it its of that those how".split())
MAX_LINES = 60
MAX_COMPLEXITY = 12
UNSIZED_FOLDERS = frozenset({"tests", "bench"})
"""Folders whose functions may have any size."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Fault(NamedTuple):
    """A broken rule and the line that breaks it."""

    line: int
    text: str


def file_faults(path: Path) -> list[Fault]:
    """Lists the faults of a file in the order of its lines."""
    tree = ast.parse(path.read_bytes())
    sizes = () if path.parts[0] in UNSIZED_FOLDERS else size_faults(tree)
    return sorted([*docstring_faults(tree), *sizes])


def docstring_faults(tree: ast.Module) -> Iterator[Fault]:
    """Finds docstrings whose first word names neither an action nor a thing."""
    for line, text in _docstrings(tree):
        words = text.split(maxsplit=1)
        first = words[0].rstrip(",.:;!?") if words else ""
        if first.lower() in BANNED_FIRST_WORDS:
            yield Fault(line, f"docstring begins with {first!r}: begin with a verb or a noun phrase")


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each docstring, those below constants and attributes too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function):
            for before, statement in pairwise([None, *node.body]):
                match statement:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        if before is None or isinstance(before, ast.Assign | ast.AnnAssign):
                            yield statement.lineno, text


def size_faults(tree: ast.Module) -> Iterator[Fault]:
    """Finds functions that are too long or have too many branches."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_LINES:
                yield Fault(node.lineno, f"{node.name} has {lines} lines, {MAX_LINES} at most")
            if (found := complexity(node)) > MAX_COMPLEXITY:
                yield Fault(node.lineno, f"{node.name} has complexity {found}, {MAX_COMPLEXITY} at most")


def complexity(function: Function) -> int:
    """Counts the ways through a function as `radon cc` does; inner functions count for themselves."""
    return 1 + sum(_branches(node) for statement in function.body for node in _walk(statement))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, Function | ast.ClassDef):
        yield node
        if not isinstance(node, ast.Assert):
            for child in ast.iter_child_nodes(node):
                yield from _walk(child)


def _branches(node: ast.AST) -> int:
    match node:
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.If() | ast.IfExp() | ast.Assert():
            return 1
        case ast.For(orelse=orelse) | ast.AsyncFor(orelse=orelse) | ast.While(orelse=orelse):
            return 1 + bool(orelse)
        case ast.Try(handlers=handlers, orelse=orelse) | ast.TryStar(handlers=handlers, orelse=orelse):
            return len(handlers) + bool(orelse)
        case ast.comprehension(ifs=ifs):
            return 1 + len(ifs)
        case ast.Match(cases=cases):
            return sum(not _is_wildcard(case.pattern) for case in cases)
        case _:
            return 0


def _is_wildcard(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None


def tracked_files() -> list[Path]:
    """Lists the Python files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
    return [path for path in map(Path, listed) if path.exists()]


def main(arguments: list[str]) -> int:
    """Prints the faults of the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="house_rules")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    files = options.files or tracked_files()
    faults = [f"{path}:{line}: {text}" for path in files for line, text in file_faults(path)]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
