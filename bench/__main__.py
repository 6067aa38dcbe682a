"""`python -m bench`: V1 against V2, and both against peers."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import httpx
import typer

from bench.load import GeneratorFailed, MissingTool
from bench.plan import QUICK, SCENARIOS, Plan
from bench.run import run
from bench.servers import ContenderFailed

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_DEFAULTS = Plan()


@app.command()
def bench(
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SCENARIOS)}; may be given again; all by default")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help=f"Of each contender, but where a scenario has its own ({_DEFAULTS.workers})"),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(min=1, help=f"Of the load generator, but where a scenario has its own ({_DEFAULTS.connections})"),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help=f"Rounds; each contender has a turn in each ({_DEFAULTS.rounds})")
    ] = None,
    seconds: Annotated[int | None, typer.Option(min=1, help=f"Length of a measurement ({_DEFAULTS.seconds})")] = None,
    executions: Annotated[
        int | None, typer.Option(min=2, help=f"Executions of the scenario memory ({_DEFAULTS.executions:,})")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="Seconds in which scenarios may begin")] = _DEFAULTS.budget_s,
    first_port: Annotated[
        int, typer.Option(min=1024, max=65000, help="The first port to try; each server takes the next free one")
    ] = _DEFAULTS.first_port,
    quick: Annotated[  # noqa: FBT002 - a flag of the command line
        bool,
        typer.Option("--quick", help="Runs everything at its smallest, to see that it works; the figures mean little"),
    ] = False,
    output: Annotated[Path, typer.Option(help="The folder for the results")] = Path("bench/results/latest"),
) -> None:
    """Measures Poolshift and its peers, each as a real server on loopback, and writes JSON, Markdown and a plot."""
    chosen = list(dict.fromkeys(scenario or SCENARIOS))
    for name in chosen:
        if name not in SCENARIOS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(SCENARIOS)}", param_hint="--scenario")
    sizes = {
        "workers": workers,
        "connections": connections,
        "rounds": rounds,
        "seconds": seconds,
        "executions": executions,
    }
    given: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    plan = replace(QUICK if quick else _DEFAULTS, first_port=first_port, budget_s=budget, **given)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        said = run(plan, chosen, output, say=lambda line: print(line, file=sys.stderr))
    except (MissingTool, GeneratorFailed, ContenderFailed, httpx.TransportError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(said)
    print(f"{output}/results.md has the rest.", file=sys.stderr)


def _stop(number: int, _: FrameType | None) -> None:
    """Ends the bench and its servers, as Ctrl-C does."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    app(prog_name="bench")
