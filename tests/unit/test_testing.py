"""`poolshift.testing`: a program in a test, without a server. `test_worker_alone.py` compares it with a worker."""

from pathlib import Path
from typing import Any

import pytest

from poolshift.testing import EntrypointError, InvalidInputs, InvalidOutputs, Program, ProgramError, load, load_file

MODULE = """
closed = []

def greet(name: str, times: int = 1) -> str:
    return " ".join([f"Hello {name}"] * times)

def count(to: int):
    for number in range(to):
        yield {"at": number}
    return {"result": to}

def fails(text: str) -> str:
    raise KeyError(text)

class Stateful:
    def setup(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls

    def teardown(self) -> None:
        closed.append(self.calls)
"""
COUNT: dict[str, Any] = {
    "inputs": [{"name": "to", "type": "integer", "default": 2}],
    "outputs": [{"name": "result", "schema": {"type": "integer", "maximum": 3}}],
}


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hello.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "hello", raising=False)


def test_a_function_tells_its_signature() -> None:
    """And its defaults hold."""
    program = load("hello:greet")
    assert program.run({"name": "you"}).outputs == {"result": "Hello you"}
    assert [field["name"] for field in program.signature["inputs"]] == ["name", "times"]


def test_a_generator_tells_its_progress() -> None:
    """A signature that is given is checked, its schema too; a default of it holds."""
    program = load("hello:count", signature=COUNT)
    run = program.run()
    assert (run.outputs, run.progress) == ({"result": 2}, [{"at": 0}, {"at": 1}])
    with pytest.raises(InvalidOutputs) as refused:
        program.run({"to": 4})
    assert refused.value.field == "result"


def test_errors_are_those_of_the_service() -> None:
    """With their code, their field, and what the program raised as the cause."""
    with pytest.raises(InvalidInputs) as refused:
        load("hello:greet").run({"name": 1})
    assert (refused.value.code, refused.value.field) == ("invalid_inputs", "name")
    with pytest.raises(ProgramError) as failed:
        load("hello:fails").run({"text": "x"})
    assert failed.value.detail == "KeyError: 'x'"
    assert isinstance(failed.value.__cause__, KeyError)


def test_an_instance_is_made_once_and_torn_down() -> None:
    """As in a worker."""
    with load("hello:Stateful") as program:
        assert [program.run().outputs["result"] for _ in range(3)] == [1, 2, 3]
    assert __import__("hello").closed == [3]


@pytest.mark.parametrize(
    ("entrypoint", "why"), [("hello:missing", "has no function"), ("hello:_x", "private"), ("nowhere:f", "No module")]
)
def test_an_entrypoint_is_refused_as_at_its_creation(entrypoint: str, why: str) -> None:
    """With the same words."""
    with pytest.raises(EntrypointError, match=why):
        load(entrypoint)


def test_a_definition_is_read_as_programs_apply_reads_it(tmp_path: Path) -> None:
    """YAML and JSON; what the service alone follows is left out, and a misspelt member is told."""
    for name, content in {
        "one.yaml": "id: count\nprogram_type: python\nentrypoint: hello:count\ntimeout_s: 3\nidempotent: true\n"
        "signature: {inputs: [{name: to, type: integer}], outputs: [{name: result, type: integer}]}\n",
        "one.json": '[{"id": "count", "entrypoint": "hello:count", "signature": {"inputs": [{"name": "to", '
        '"type": "integer"}], "outputs": [{"name": "result", "type": "integer"}]}}]',
    }.items():
        (tmp_path / name).write_text(content)
        program: Program = load_file(str(tmp_path / name))
        assert program.run({"to": 1}).outputs == {"result": 1}
    with pytest.raises(TypeError, match="entry_point"):
        load("hello:greet", entry_point="x")
