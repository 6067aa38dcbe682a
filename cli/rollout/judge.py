"""`poolshift judge`: judges recorded ramps, tells what a ramp could find, and exports what a service's judge saw."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.guardrails import Config
from analysis.planning.power import DEFAULT_RAMP, Power, power
from analysis.planning.promotion import MAX_CALLS, PromotionTime, promotion_time
from analysis.planning.replay import Change, Replay
from analysis.planning.stages import Stage
from cli.errors import CommandFailed, ExitCode, printable
from cli.output import AsJson, print_rows, rough_time
from cli.rollout.trace_file import TraceFile, UnreadableTrace
from cli.service import Service, on_service
from poolshift.client import ramp

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Judge recorded ramps.")


@app.callback()
def judge() -> None:
    """Judge recorded ramps, and tell what a ramp could find (docs/judge.md)."""


@app.command()
def replay(
    traces: Annotated[list[str], typer.Argument(metavar="TRACE…", help="Files of JSON lines; - is standard input")],
    *,
    as_json: AsJson = False,
    r0: Annotated[float, typer.Option(min=1, help="V2 may have so many times V1's faults")] = 1.0,
    m0: Annotated[float, typer.Option(min=1, help="V2 may take so many times V1's milliseconds")] = 1.0,
) -> None:
    """Replay traces: the judge's verdicts, and the calls at which it came to them."""
    config = Config(r0=r0, m0=m0)
    unreadable = 0
    for path in traces:
        try:
            found, run = _replay(path, config, as_json=as_json)
        except UnreadableTrace as error:
            print(f"poolshift: {printable(str(error))}", file=sys.stderr)
            unreadable += 1
            continue
        if not as_json:
            _print_people(path, found, run)
    if unreadable:
        raise typer.Exit(ExitCode.USAGE)


@app.command()
@on_service
def export(
    service: Service,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Without one, standard output.")] = None,
) -> None:
    """Export what the judge of a running service saw, as a trace for `replay`; keys are hashes."""
    trace = service.answer(ramp.trace()).value
    if file is None:
        sys.stdout.buffer.write(trace.lines)
        sys.stdout.buffer.flush()
    else:
        _replace(file, trace.lines)
    calls, dropped = trace.lines.count(b"\n"), trace.dropped
    told = f"; {dropped:,} older ones are dropped, and the verdicts of a replay may differ" if dropped else ""
    print(f"{calls:,} calls{told}", file=sys.stderr)


@app.command(name="power")
def power_command(
    rate: Annotated[float, typer.Option(min=0.001, help="Calls per second")] = 50.0,
    faults: Annotated[float, typer.Option(min=0, max=0.5, help="Share of V1's calls that fail")] = 0.005,
    ratio: Annotated[float, typer.Option(min=1.01, help="V2's faults over V1's")] = 2.0,
    ramp: Annotated[str, typer.Option(help="Percent:calls, …")] = DEFAULT_RAMP,
    guardrail: Annotated[str, typer.Option(help="The guardrail whose threshold counts")] = "engine",
    *,
    promotion: Annotated[
        bool, typer.Option("--promotion", help="Tell of the promotion alone, with each guardrail that it waits for")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate ramps with a fixed seed: the calls and the time until a regression is found, and until a promotion."""
    stages = _ramp(ramp)
    try:
        found = None if promotion else power(rate, faults, ratio, stages, guardrail)
        promoted = promotion_time(rate, faults, stages, guardrail)
    except ValueError as error:
        raise CommandFailed(ExitCode.USAGE, str(error)) from None
    if as_json:
        print(json.dumps({**({} if found is None else found.as_data()), "promotion": promoted.as_data()}))
        return
    if found is not None:
        print(f"V2 with {ratio:g} times the faults: {_until_found(found)}")
    print(f"V2 as good as V1: {_until_promoted(promoted)}")
    if promotion:
        _print_guardrails(promoted)


def _replace(file: Path, content: bytes) -> None:
    """Writes the file whole or not at all."""
    temporary = file.with_name(f"{file.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{file}: {error.strerror}") from None


def _replay(path: str, config: Config, *, as_json: bool) -> tuple[list[Change], Replay]:
    """Judges one trace. With JSON each change is printed as it comes."""
    trace = TraceFile(path)
    outline = trace.outline()
    try:
        run = Replay(outline.steps, outline.programs, config, outline.actions, outline.promotes)
    except ValueError as error:
        raise UnreadableTrace(f"{path}: {error}") from None
    found: list[Change] = []
    for change in _all_changes(run, trace):
        found.append(change)
        if as_json:
            print(json.dumps(_line(path, change)), flush=True)
    return found, run


def _all_changes(run: Replay, trace: TraceFile) -> Iterator[Change]:
    yield from run.changes(trace.calls())
    yield run.end()


def _line(path: str, change: Change) -> dict[str, Any]:
    verdict = change.verdict
    return {
        "trace": path,
        "call": change.call,
        "t": change.t,
        "verdict": verdict.action.value,
        "guardrail": verdict.guardrail,
        "evidence": {
            "log_e": round(verdict.log_e, 4),
            "threshold": round(verdict.threshold, 4),
            "stratum": verdict.stratum,
        },
    }


def _print_people(path: str, found: list[Change], run: Replay) -> None:
    print(f"{printable(path)}: {run.calls:,} calls")
    print_rows(
        ("call", "t", "verdict", "guardrail", "log E", "threshold", "stratum"),
        [
            (
                one.call,
                round(one.t, 3),
                one.verdict.action.value,
                one.verdict.guardrail,
                round(one.verdict.log_e, 2),
                round(one.verdict.threshold, 2),
                one.verdict.stratum,
            )
            for one in found
        ],
    )
    print()
    print_rows(
        ("guardrail", "action", "log E", "threshold", "V1 calls", "faults", "V2 calls", "faults", "ratio"),
        [
            (
                row.name,
                row.action,
                round(row.log_e, 2),
                round(row.threshold, 2),
                row.v1.calls,
                row.v1.faults,
                row.v2.calls,
                row.v2.faults,
                f"{row.ratio[0]:.2f} to {'any' if row.ratio[1] is None else format(row.ratio[1], '.2f')}",
            )
            for row in run.rows()
            if row.v1.calls or row.v2.calls
        ],
    )


def _ramp(text: str) -> tuple[Stage, ...]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple(Stage(float(percent) / 100, int(calls)) for percent, calls in pairs)
    except ValueError:
        raise CommandFailed(
            ExitCode.USAGE, f"--ramp is percent:calls pairs such as 1:2000,5:5000, not {text!r}"
        ) from None


def _until_found(found: Power) -> str:
    times = f"{int(10 * found.share)} of 10 ramps" if found.share < 1 else "every ramp"
    if found.median_calls is None:
        return f"not found in most ramps ({found.found} of {found.ramps})"
    return (
        f"found in about {_count(found.median_calls)} calls, {rough_time(found.median_calls / found.rate)}, in {times}"
    )


def _until_promoted(found: PromotionTime) -> str:
    if found.calls is None or found.last_step_calls is None:
        return f"most ramps are not promoted within {_count(MAX_CALLS)} calls at {100 * found.last_step:g} %"
    at_last = f"{_count(found.last_step_calls)} of them at {100 * found.last_step:g} %"
    return f"promoted after about {_count(found.calls)} calls, {rough_time(found.calls / found.rate)}, {at_last}"


def _print_guardrails(found: PromotionTime) -> None:
    """A line for each guardrail that a promotion waits for: the calls at the last step until its evidence is likely."""
    print(f"At {100 * found.last_step:g} % the evidence of each guardrail is there after about")
    for name, calls in found.by_guardrail.items():
        told = f"over {_count(MAX_CALLS)} calls" if calls is None else f"{_count(calls)} calls"
        time = "" if calls is None else f", {rough_time(calls / found.rate)}"
        print(f"  {name:<8} {told}{time}")


def _count(calls: float) -> str:
    return f"{calls / 1000:.0f}k" if calls >= 10_000 else f"{calls:,.0f}"
