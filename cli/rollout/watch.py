"""Follows a ramp: asks the service each second, shows what has changed, and outlasts its restarts."""

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.live import Live

from cli.errors import CommandFailed, ExitCode, printable
from cli.rollout.watch_screen import Seen, screen, verdict_text
from cli.service import Service
from poolshift.client import ramp

LOOK_EVERY_S = 1.0
UNDER_WAY = ("ramping", "waiting", "paused")
ENDED = ("promoted", "rolled_back", "aborted")
PASSING = (ExitCode.REFUSED, ExitCode.UNREACHABLE)
"""Failures that a service has while it starts again; a wrong key is none of them."""


@dataclass(frozen=True)
class End:
    """The end of a ramp."""

    state: str
    reason: str | None
    is_promoted: bool


class Watch:
    """One look after the other, until the ramp has ended or somebody presses Ctrl-C."""

    def __init__(self, service: Service, *, until_done: bool) -> None:
        self._service = service
        self._until_done = until_done
        self._was_under_way = False

    def run(self) -> End:
        """Returns the end of the ramp. The first look must succeed; after that only time ends the waiting.

        Raises:
            CommandFailed: the service does not answer at the first look, or refuses the key.
        """
        seen = self._look()
        return self._on_terminal(seen) if sys.stdout.isatty() else self._by_lines(seen)

    def _on_terminal(self, seen: Seen) -> End:
        with Live(screen(seen), console=Console(), auto_refresh=False) as live:
            while (end := self._end(seen)) is None:
                time.sleep(LOOK_EVERY_S)
                seen = self._look_again(seen)
                live.update(screen(seen), refresh=True)
            return end

    def _by_lines(self, seen: Seen) -> End:
        told = None
        while True:
            if (news := _news(seen)) != told:
                told = news
                print(_line(seen), flush=True)
            if (end := self._end(seen)) is not None:
                return end
            time.sleep(LOOK_EVERY_S)
            seen = self._look_again(seen)

    def _look(self) -> Seen:
        status = self._service.ask(ramp.status())
        rows = self._service.ask(ramp.analysis())
        plan = self._service.ask(ramp.show_plan()) if status["steps"] else None
        return Seen(status, rows, plan, datetime.now(UTC))

    def _look_again(self, before: Seen) -> Seen:
        try:
            return self._look()
        except CommandFailed as failure:
            if failure.exit_code not in PASSING:
                raise
            return before.unanswered(str(failure))

    def _end(self, seen: Seen) -> End | None:
        """The end of the ramp; an end before the first look counts too, and a plan that follows at once hides none."""
        status = seen.status
        state: str = status["state"]
        is_over = state in ENDED or (state == "idle" and self._was_under_way)
        self._was_under_way = self._was_under_way or state in UNDER_WAY
        if not self._until_done or not is_over:
            return None
        is_promoted = state == "promoted" or (state == "idle" and status["canary_percent"] == 100)
        return End(state, status["reason"], is_promoted)


def _news(seen: Seen) -> tuple[Any, ...]:
    """The part of a status that a line is printed for; counts change each second, and are not news."""
    status = seen.status
    told = tuple(
        status[name] for name in ("state", "step", "canary_percent", "shadow_percent", "verdict", "guardrail", "silent")
    )
    return (*told, seen.problem is not None)


def _line(seen: Seen) -> str:
    status = seen.status
    at = seen.at.strftime("%Y-%m-%d %H:%M:%SZ")
    if seen.problem is not None:
        return printable(f"{at} no answer, tried again each second: {seen.problem}")
    where = f"step {status['step']} of {status['steps']}, V2 {status['canary_percent']:g} %"
    shadow = f", shadow {status.get('shadow_percent', 0):g} %" if status.get("shadow_percent") else ""
    silent = f"; silent: {', '.join(status['silent'])}" if status["silent"] else ""
    warning = f" ({status['warning']})" if status.get("warning") else ""
    told = f"{verdict_text(seen)} Next: {status['next']}{silent}"
    return printable(f"{at} {status['state']}{warning}, {where}{shadow}. {told}")
