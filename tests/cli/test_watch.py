"""`poolshift rollout watch`: the screen, the lines of a pipe, and the end of a ramp as an exit code."""

import io
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cli.rollout.watch_screen import Seen, screen, verdict_text
from tests.cli.conftest import SCRIPT, Poolshift
from tests.conftest import StartService
from tests.support.service import Service
from tests.support.waiting import wait_until

PLAN = {"name": "release 7", "steps": [{"percent": 10, "hold_s": 3600}, {"percent": 50, "hold_s": 3600}]}


class Watching:
    """`rollout watch` in a process of its own; its output as it comes."""

    def __init__(self, poolshift: Poolshift, *options: str) -> None:
        self._path = poolshift.directory / "watched"
        with self._path.open("wb") as out:
            self.process = subprocess.Popen(
                [SCRIPT, "rollout", "watch", *options],
                cwd=poolshift.directory,
                env=poolshift.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """Everything so far."""
        return self._path.read_text()

    def says(self, text: str) -> None:
        """Waits until it has printed `text`."""
        wait_until(lambda: text in self.output(), f"it says {text!r}")


@contextmanager
def watching(poolshift: Poolshift, *options: str) -> Iterator[Watching]:
    """A watch for as long as the block lasts."""
    watch = Watching(poolshift, *options)
    try:
        yield watch
    finally:
        watch.process.kill()
        watch.process.wait()


@pytest.fixture
def ramping(start_service: StartService) -> Service:
    """A service of the test's own with a ramp at its first step."""
    service = start_service()
    assert service.client.put("/rollout/plan", json=PLAN).status_code == 200
    assert service.client.post("/rollout/start").status_code == 200
    return service


@pytest.mark.parametrize(("move", "exit_code"), [("promote", 0), ("abort", 1), ("rollback", 1)])
def test_until_done_tells_the_end_by_its_exit_code(
    poolshift: Poolshift, ramping: Service, move: str, exit_code: int
) -> None:
    """A line for each change of the ramp, and the end with its reason; a second watch ends as the first."""
    with watching(poolshift.at(ramping.url), "--until-done") as watch:
        watch.says("ramping, step 1 of 2, V2 10 %")
        ramping.client.post("/rollout/pause", json={"reason": "lunch"})
        watch.says(" paused, step 1 of 2")
        ramping.client.post("/rollout/resume")
        ramping.client.post(f"/rollout/{move}", json={"reason": "the test wishes it"})
        assert watch.process.wait(20) == exit_code
        said = watch.output()
    assert ("poolshift: " in said) == bool(exit_code)
    assert ("the test wishes it" in said) == bool(exit_code)
    again = poolshift.at(ramping.url)("rollout", "watch", "--until-done")
    assert again.returncode == exit_code
    assert again.stdout.count("\n") == 1


def test_it_outlasts_a_restart_of_the_service(poolshift: Poolshift, ramping: Service) -> None:
    """The screen says so once, and goes on at the ramp's step."""
    with watching(poolshift.at(ramping.url), "--until-done") as watch:
        watch.says("ramping")
        ramping.stop()
        watch.says("no answer, tried again each second")
        ramping.start()
        wait_until(lambda: watch.output().count("ramping, step 1 of 2") == 2, "it is back")
        ramping.client.post("/rollout/abort")
        assert watch.process.wait(20) == 1
    assert watch.output().count("no answer") == 1


def test_on_a_terminal_it_is_a_screen_that_ctrl_c_ends(poolshift: Poolshift, ramping: Service) -> None:
    """The verdict in words, the steps, the split; and exit code 130, without a traceback."""
    master, slave = pty.openpty()
    environment = {**poolshift.at(ramping.url).environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [SCRIPT, "rollout", "watch"],
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        # A shell has what it starts in the background ignore the signal: it would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no lock is taken there
    )
    os.close(slave)
    shown = b""
    try:
        while b"\xe2\x96\xb6" not in shown or b"V2 over V1" not in shown:
            shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while more := os.read(master, 65536):
                shown += more
        except OSError:  # the terminal is closed
            pass
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()
        os.close(master)
    text = shown.decode()
    assert "No evidence yet" in text
    assert "10 % asked for" in text
    assert "Traceback" not in text


def row(name: str = "engine", log_e: float = 1.0, **more: Any) -> dict[str, Any]:
    """A guardrail as the service has it."""
    return {
        "name": name,
        "action": "rollback",
        "log_e": log_e,
        "threshold": 5.0,
        "v1": {"calls": 1000, "faults": 3},
        "v2": {"calls": 900, "faults": 4},
        "ratio": [0.4, 3.1],
        "stratum": "all",
        **more,
    }


def seen(*rows: dict[str, Any], **changes: Any) -> Seen:
    """A look at a ramp."""
    split = {"asked_percent": 10.0, "seen_percent": 9.87, "v1": 900, "v2": 99}
    status = {
        "state": "ramping",
        "step": 1,
        "steps": 2,
        "canary_percent": 10.0,
        "next": "step 2 of 2: 50 % in 12 s at the earliest",
        "verdict": "continue",
        "guardrail": None,
        "reason": None,
        "by": "ops",
        "in_force": True,
        "silent": [],
        "split": split,
        **changes,
    }
    steps = [
        {"percent": 10.0 + index, "hold_s": 60, "min_calls": 100, "approval": False} for index in range(status["steps"])
    ]
    return Seen(status, rows, {"name": "release 7", "steps": steps}, datetime(2026, 11, 25, 12, tzinfo=UTC))


def rendered(view: Seen, width: int = 120) -> str:
    """The screen as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(screen(view))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (seen(), "No evidence yet"),
        (seen(row(v1={"calls": 0, "faults": 0}, v2={"calls": 0, "faults": 0})), "No evidence yet"),
        (seen(row(), row("tail", 2.5)), "tail is nearest, at 50% of its threshold"),
        (seen(row(log_e=-4.0)), "engine is nearest, at 0% of its threshold"),
        (seen(row(log_e=6.0), verdict="rollback", guardrail="engine"), "V2 is worse: the evidence of engine"),
        (seen(row("srm", 7.0), verdict="pause", guardrail="srm"), "Something is wrong: the evidence of srm"),
        (
            seen(row("tail", 3.0, finding="suspected"), row("shadow", finding="suspected", suspects=["invoice.total"])),
            "Suspected, and not shown: tail, at 60% of its threshold; shadow, invoice.total, at 20%",
        ),
        (seen(row(), verdict="promote"), "V2 is no worse than V1"),
    ],
)
def test_the_verdict_in_words_is_the_first_line(view: Seen, words: str) -> None:
    """Nobody has to read a table to know where a ramp stands."""
    assert words in verdict_text(view)
    assert verdict_text(view) in rendered(view, width=200).splitlines()[0]


def test_the_screen_has_everything_that_an_operator_asks_for() -> None:
    """Steps with the current one, both splits, both versions with the interval, the evidence as a bar, what is next."""
    text = rendered(seen(row(log_e=2.5, stratum="program=summarize"), row("latency", ratio=[1.02, None])), width=140)
    assert "Next: step 2 of 2: 50 % in 12 s at the earliest" in text
    assert "10 % asked for, 9.87 % seen (900 calls to V1, 99 to V2)" in text
    assert re.search(r"▶ +1 +10 %", text)
    assert "3 / 1,000" in text
    assert "4 / 900" in text
    assert "0.40 to 3.10" in text
    assert "1.02 to any" in text
    assert "█" * 10 + "░" * 10 in text
    assert "2.5 of 5.0, program=summarize" in text


def test_of_many_steps_those_around_the_current_one_are_shown() -> None:
    """The screen fits a terminal, whatever the plan."""
    for step in (0, 1, 32, 64):
        text = rendered(seen(row(), steps=64, step=step))
        assert len(text.splitlines()) < 24
        assert ("▶" in text) == (step > 0)


def test_a_look_without_an_answer_keeps_the_last_one_in_sight() -> None:
    """With the reason, and since when."""
    text = rendered(seen(row()).unanswered("http://127.0.0.1:1: connection refused"))
    assert "No answer since 12:00:00Z" in text
    assert "connection refused" in text
    assert "3 / 1,000" in text


@given(st.text(), st.integers(20, 200))
def test_nothing_that_others_wrote_steers_the_terminal(text: str, width: int) -> None:
    """Reasons, names and strata are spelt out, at any width."""
    view = seen(row(stratum=text), reason=text, by=text, silent=[text], next=text)
    shown = rendered(view.unanswered(text), width)
    assert all(char.isprintable() or char == "\n" for char in shown)
