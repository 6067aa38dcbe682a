"""tools/house_rules.py finds each fault, and counts as the tools do whose figures the house quotes."""

import ast
from pathlib import Path
from textwrap import dedent, indent

import pytest

from tools.house_rules import BANNED_FIRST_WORDS, complexity, docstring_faults, main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the check in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def check(text: str, name: str = "module.py") -> int:
    """Checks a file of this text."""
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return main([name])


PLACES = {
    "module": '"""{}"""',
    "class": 'class A:\n    """{}"""',
    "function": 'def a():\n    """{}"""',
    "method": 'class A:\n    async def a(self):\n        """{}"""',
    "constant": 'A: int = 1\n"""{}"""',
    "attribute": 'class A:\n    def __init__(self):\n        self.a = 1\n        """{}"""',
    "inner function": 'def a():\n    def b():\n        """{}"""',
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("word", sorted(BANNED_FIRST_WORDS))
def test_a_banned_first_word_is_found_wherever_a_docstring_stands(place: str, word: str) -> None:
    """In either case, and with a comma or not."""
    for first in (word, word.title(), f"{word.title()},"):
        assert len(list(docstring_faults(ast.parse(place.format(f"{first} waits."))))) == 1
        assert not list(docstring_faults(ast.parse(place.format(f"Waits {first} again."))))


@pytest.mark.parametrize("text", ["Cancels a call.", "A call in a queue.", "Items of a page.", "", "Ofcom's rule."])
def test_a_verb_or_a_noun_phrase_passes(text: str) -> None:
    """Words that only begin like a banned one pass, too."""
    assert check(f'"""{text}"""') == 0


BODIES = {
    "pass": 1,
    "if a and b or c: pass": 4,
    "if a: pass\nelif b: pass\nelse: pass": 3,
    "return 1 if a else 2": 2,
    "for x in y: pass\nelse: pass": 3,
    "async for x in y: pass": 2,
    "while a: pass": 2,
    "try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass": 4,
    "try: pass\nexcept* A: pass": 2,
    "return [x for x in y if x if z for w in x]": 5,
    "assert a and b": 2,
    "match a:\n    case 1: pass\n    case 2: pass\n    case _: pass": 3,
    "with a: pass": 1,
    "return lambda: 1": 1,
    "def inner():\n    if a: pass": 1,
}


@pytest.mark.parametrize(("body", "figure"), BODIES.items())
def test_complexity_is_radons(body: str, figure: int) -> None:
    """The figures are those of `radon cc` 6.0.1 for the same function."""
    (function,) = ast.parse(f"async def f(a, b, c, y):\n{indent(body, '    ')}").body
    assert isinstance(function, ast.AsyncFunctionDef)
    assert complexity(function) == figure


@pytest.mark.parametrize(("lines", "branches", "exit_code"), [(59, 0, 0), (60, 0, 1), (11, 11, 0), (12, 12, 1)])
def test_a_function_that_is_too_big_is_found(
    capsys: pytest.CaptureFixture[str], lines: int, branches: int, exit_code: int
) -> None:
    """60 lines and a complexity of 12 pass, one more of either does not; tests and bench may do as they like."""
    body = ["    if a: pass"] * branches + ["    pass"] * (lines - branches)
    text = "\n".join(["def f(a):", *body])
    assert check(text) == exit_code
    assert ("f has " in capsys.readouterr().out) == bool(exit_code)
    assert check(text, name="tests/module.py") == 0
    assert check(text, name="bench/module.py") == 0


def test_a_fault_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An editor can jump to it."""
    assert (
        check(
            dedent('''\
        """Waits."""

        def f():
            """Whether it waits."""
    ''')
        )
        == 1
    )
    assert capsys.readouterr().out.startswith("module.py:4: docstring begins with 'Whether'")
