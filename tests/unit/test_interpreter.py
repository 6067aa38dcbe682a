"""Questions to a pool's interpreter: one for all who ask at the same time, another for those who ask later."""

import asyncio
import sys
from pathlib import Path

import pytest

from common.threads import start_threads
from pools.errors import SpawnFailed
from pools.process.interpreter import Interpreter
from tests.support.service import ROOT

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


@pytest.fixture
def counting(tmp_path: Path) -> tuple[Interpreter, Path]:
    """An interpreter that writes down each of its starts, and the file where."""
    python, starts = tmp_path / "python", tmp_path / "starts"
    python.write_text(f'#!/bin/sh\necho start >> {starts}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return Interpreter(str(python)), starts


async def test_who_asks_meanwhile_gets_the_same_answer(counting: tuple[Interpreter, Path]) -> None:
    """An answer is of the packages of its moment: who asks later, or for another environment, asks anew."""
    interpreter, starts = counting
    await start_threads()
    environment = {"PYTHONPATH": str(ROOT)}
    first, second = await asyncio.gather(*(interpreter.describe(environment) for _ in range(2)))
    assert first is second
    assert "msgspec" in first.packages
    assert await interpreter.describe(environment) == first
    assert len(starts.read_text().splitlines()) == 2
    await asyncio.gather(*(interpreter.describe(environment | {"NUMBER": str(number)}) for number in range(2)))
    assert len(starts.read_text().splitlines()) == 4


async def test_the_services_own_interpreter_says_here_what_a_process_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was added to the path since. A variable that leads elsewhere has a process asked; this one does not."""
    for folder in ("theirs", "added"):
        (tmp_path / folder / f"{folder}-1.5.dist-info").mkdir(parents=True)
        (tmp_path / folder / f"{folder}-1.5.dist-info" / "METADATA").touch()
    environment = {"PYTHONPATH": f"{tmp_path}/theirs:{ROOT}"}
    monkeypatch.syspath_prepend(tmp_path / "added")
    await start_threads()
    here = await Interpreter().describe(environment)
    assert here.packages["theirs"] == "1.5"
    assert "added" not in here.packages
    assert here == await Interpreter().describe(environment | {"PYTHONPLATLIBDIR": sys.platlibdir})


async def test_a_failure_is_told_to_all_who_ask(tmp_path: Path) -> None:
    """And it is no answer for those who ask later."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    await start_threads()
    for _ in range(2):
        answers = await asyncio.gather(
            *(Interpreter(str(python)).describe({}) for _ in range(2)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [SpawnFailed, SpawnFailed]
        assert all("ends with status 3" in str(answer) for answer in answers)
