"""A worker's package in a Python that has msgspec and nothing else, on each Python that the machine has."""

import ast
import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.background import Background
from pools.calls import Call, Program, Result
from pools.errors import ExecutionError, InvalidInputs, ProgramError
from pools.process.exits import ExitCause
from pools.process.interpreter import Interpreter
from pools.process.process import WorkerProcess
from pools.process.program_code import ProgramCode
from pools.process.spawner import Spawner
from poolshift.worker.definitions import Definition, Field, Signature
from poolshift.worker.loading import DSPY_PROGRAMS, EntrypointError
from tests.support.interpreters import PYTHONS, interpreter, virtual_environment
from tests.support.service import ROOT

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.thorough,
    pytest.mark.skipif(not (ROOT / "poolshift").is_dir(), reason="needs the sources beside the tests"),
]

OPTIONAL = {"dspy": {"dspy", "pydantic", "pydantic_core"}, "tracing": {"opentelemetry"}}
"""Modules that a package of the worker's may import beside msgspec, if it is installed."""
OPTIONAL_IN_FUNCTIONS = {"types": {"jsonschema_rs"}}
"""The same, in functions alone: all modules of the package import without it."""
TRACEPARENT = "00-1234567890abcdef1234567890abcdef-1234567890abcdef-01"
SHOP = """
import enum
import sys
from dataclasses import dataclass
from typing import Dict, Generator, List

class Size(enum.Enum):
    SMALL = "S"
    LARGE = "L"

@dataclass
class Parcel:
    grams: int
    size: Size

def weigh(parcels: List[Parcel]) -> Dict[Size, List[Parcel]]:
    assert all(isinstance(parcel, Parcel) and isinstance(parcel.size, Size) for parcel in parcels)
    return {size: [parcel for parcel in parcels if parcel.size is size] for size in Size}

def price(quantity: int) -> int:
    print("sold", quantity)
    return 3 * quantity

async def later(quantity: int) -> int:
    return quantity

def steps(quantity: int) -> Generator[int, None, int]:
    yield from range(quantity)
    return quantity

def fails(quantity: int) -> int:
    raise ValueError(quantity)

def wrong() -> int:
    return "text"

def loaded(quantity: int) -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules})
"""


@pytest.fixture(scope="module", params=PYTHONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of a virtual environment with msgspec alone."""
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"this machine has no Python {request.param}")
    place = tmp_path_factory.mktemp(f"python{request.param}")
    made = virtual_environment(place, found, "msgspec>=0.22")
    yield made
    shutil.rmtree(place)


@pytest.fixture
async def worker(python: Path, tmp_path: Path) -> Any:
    """A worker on that interpreter, which finds the user's module."""
    (tmp_path / "shop.py").write_text(SHOP)
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    background = Background()
    code = ProgramCode(
        interpreter=Interpreter(str(python)),
        allowed_modules=("shop",),
        own_root=ROOT,
        own_preload=("poolshift.worker.tracing.preload", DSPY_PROGRAMS),
    )
    spawner = Spawner(code, environment, background=background)
    worker = await spawner.spawn()
    yield worker
    worker.kill(ExitCause.SHUTDOWN)
    await spawner.aclose()
    await background.aclose()


class _Sampled:
    """A call that is sampled: the service asks for the spans of its program."""

    trace_id = TRACEPARENT[3:35]
    spans: tuple[Any, ...] = ()

    def run_begins(self, worker_pid: int) -> str:
        return TRACEPARENT

    def run_ended(self, error: Exception | None, spans: Any) -> None:
        self.spans = tuple(spans)


async def finish(worker: WorkerProcess, program: Program, inputs: bytes, **more: Any) -> Result | Exception:
    ended: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
    deadline = asyncio.get_running_loop().time() + 30
    worker.run(Call("e-1", program, inputs, deadline, **more), ended.set_result)
    return await ended


async def run(worker: WorkerProcess, function: str, kind: str = "integer", **more: Any) -> Any:
    signature = Signature((Field("quantity", "integer"),), (Field("result", kind),))  # type: ignore[arg-type]
    program = Program(function, function, Definition("python", signature, f"shop:{function}"))
    outcome = await finish(worker, program, b'{"quantity": 7}', **more)
    return msgspec.json.decode(outcome.outputs)["result"] if isinstance(outcome, Result) else outcome


async def test_programs_run_with_msgspec_alone(worker: WorkerProcess) -> None:
    """Plain, async and generator functions; with a trace context and sampled, where a span is all that is missing."""
    assert await run(worker, "price") == 21
    assert await run(worker, "later") == 7
    assert await run(worker, "steps") == 7
    assert await run(worker, "price", traceparent=TRACEPARENT) == 21
    sampled = _Sampled()
    assert await run(worker, "price", trace=sampled) == 21
    assert sampled.spans == ()
    assert isinstance(await run(worker, "fails"), ProgramError)
    loaded = set(await run(worker, "loaded", "array"))
    assert "msgspec" in loaded
    assert not loaded & {"dspy", "opentelemetry", "pydantic", "structlog", "httpx"}


async def test_a_schema_says_what_to_install(worker: WorkerProcess) -> None:
    """jsonschema-rs is not there; annotations need nothing but msgspec."""
    listed = Field("quantity", "array", schema={"items": {"type": "integer"}})
    with pytest.raises(EntrypointError, match=r"quantity.*pip install 'jsonschema-rs>=") as refused:
        await worker.check(Definition("python", Signature((listed,), (Field("result", "integer"),)), "shop:price"))
    assert refused.value.at == "signature"


async def test_a_signature_is_derived_with_msgspec_alone(worker: WorkerProcess) -> None:
    """Nested dataclasses and enumerations come in as objects, and go out as JSON, on each Python."""
    derived = await worker.check(Definition("python", Signature((), (), derived=True), "shop:weigh"))
    assert derived is not None
    assert [(one.name, one.type, one.required) for one in derived.inputs] == [("parcels", "array", True)]
    assert [(one.name, one.type) for one in derived.outputs] == [("result", "object")]
    program = Program("weigh", "weigh", Definition("python", derived, "shop:weigh"))
    heavy, light = ({"grams": 900, "size": "L"}, {"grams": 100, "size": "S"})
    outcome = await finish(worker, program, msgspec.json.encode({"parcels": [heavy, light]}))
    assert isinstance(outcome, Result)
    assert msgspec.json.decode(outcome.outputs) == {"result": {"L": [heavy], "S": [light]}}
    refused = await finish(worker, program, msgspec.json.encode({"parcels": [{"grams": 900, "size": "XXL"}]}))
    assert isinstance(refused, InvalidInputs)
    assert refused.field == "parcels"
    assert "XXL" in refused.detail


async def test_a_dspy_program_says_what_to_install(worker: WorkerProcess) -> None:
    """DSPy is not there."""
    signature = Signature((Field("text", "string"),), (Field("topic", "string"),))
    with pytest.raises(EntrypointError, match="python -m pip install 'dspy>="):
        await worker.check(Definition("predict", signature))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("price", {"quantity": 7}),
    ("later", {"quantity": 7}),
    ("steps", {"quantity": 3}),
    ("fails", {"quantity": 7}),
    ("price", {"quantity": "7"}),
    ("price", {}),
    ("weigh", {"parcels": [{"grams": 900, "size": "L"}]}),
    ("weigh", {"parcels": [{"grams": 900, "size": "XXL"}]}),
    ("wrong", {}),
]
IN_PROCESS = """
import json, sys
from poolshift.testing import ExecutionError, load
for function, inputs in json.loads(sys.argv[1]):
    program = load(f"shop:{function}")
    try:
        print(json.dumps([program.run(inputs).outputs]))
    except ExecutionError as error:
        print(json.dumps([error.code, error.detail, getattr(error, "field", None)]))
"""


def in_process(python: Path, folder: Path) -> list[Any]:
    """Runs the cases by `poolshift.testing` on that interpreter."""
    (folder / "poolshift").symlink_to(ROOT / "poolshift")
    ran = subprocess.run(
        [python, "-c", IN_PROCESS, json.dumps(CASES)],
        check=True,
        capture_output=True,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith(b"[")]


async def test_a_program_in_a_test_behaves_as_in_a_worker(worker: WorkerProcess, python: Path, tmp_path: Path) -> None:
    """Outputs, and errors with their code, text and field, with msgspec alone."""
    said = in_process(python, tmp_path)
    for number, ((function, inputs), outcome) in enumerate(zip(CASES, said, strict=True)):
        definition = Definition("python", Signature((), (), derived=True), f"shop:{function}")
        derived = await worker.check(definition)
        assert derived is not None
        program = Program(str(number), function, Definition("python", derived, f"shop:{function}"))
        real = await finish(worker, program, msgspec.json.encode(inputs))
        if isinstance(real, Result):
            assert outcome == [msgspec.json.decode(real.outputs)]
        else:
            assert isinstance(real, ExecutionError)
            assert outcome == [real.code, real.detail, getattr(real, "field", None)]


def test_every_module_imports_but_the_optional(python: Path) -> None:
    """Without DSPy and OpenTelemetry."""
    names = [_module(path) for path in _sources() if path.parent.name not in OPTIONAL]
    code = f"import importlib\nfor name in {names}: importlib.import_module(name)"
    subprocess.run([python, "-c", code], check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, timeout=60)


def test_the_package_imports_msgspec_alone() -> None:
    """Anywhere in its source, in functions too; what is optional has a package of its own."""
    for path in _sources():
        optional = {**OPTIONAL, **OPTIONAL_IN_FUNCTIONS}.get(path.parent.name, ())
        allowed = {"msgspec", "poolshift", *sys.stdlib_module_names, *optional}
        assert {name.partition(".")[0] for name in _imports(path)} <= allowed, path


def _sources() -> list[Path]:
    return [ROOT / "poolshift" / "testing.py", *sorted((ROOT / "poolshift" / "worker").rglob("*.py"))]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module)
    return names - {"_typeshed"}  # for type checkers alone
