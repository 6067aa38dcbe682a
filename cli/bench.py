"""`poolshift bench`: V1 against V2, and both against peers."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench.plan import QUICK, Plan

app = typer.Typer(add_completion=False, rich_markup_mode=None)
_DEFAULTS = Plan()


@app.command()
def bench(
    scenario: Annotated[
        list[str] | None, typer.Option(help="One of those in bench/scenarios; may be given again; all by default")
    ] = None,
    workers: Annotated[int, typer.Option(min=1)] = _DEFAULTS.workers,
    connections: Annotated[int, typer.Option(min=1)] = _DEFAULTS.connections,
    rounds: Annotated[int, typer.Option(min=1)] = _DEFAULTS.rounds,
    seconds: Annotated[int, typer.Option(min=1, help="Of a measurement")] = _DEFAULTS.seconds,
    executions: Annotated[int, typer.Option(min=2, help="For the scenario memory")] = _DEFAULTS.executions,
    budget: Annotated[int, typer.Option(min=1, help="No scenario begins after so many seconds")] = _DEFAULTS.budget_s,
    first_port: Annotated[
        int, typer.Option(min=1024, max=65000, help="The servers take it and the next")
    ] = _DEFAULTS.first_port,
    quick: Annotated[  # noqa: FBT002 - a flag of the command line
        bool, typer.Option("--quick", help="Everything at its smallest, to see that it works; the figures say little")
    ] = False,
    output: Annotated[Path, typer.Option(help="The folder for the results")] = Path("bench/results/latest"),
) -> None:
    """Measures Poolshift and its peers, each as a real server on loopback, and writes JSON, Markdown and a plot."""
    # Here, so that a service that only serves does not load it.
    from bench.load import MissingTool  # noqa: PLC0415
    from bench.report import summary  # noqa: PLC0415
    from bench.run import run  # noqa: PLC0415
    from bench.scenarios import SCENARIOS  # noqa: PLC0415
    from bench.servers import ContenderFailed  # noqa: PLC0415

    chosen = scenario or list(SCENARIOS)
    for name in chosen:
        if name not in SCENARIOS:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(SCENARIOS)}", param_hint="--scenario")
    sizes = Plan(workers=workers, connections=connections, rounds=rounds, seconds=seconds, executions=executions)
    plan = replace(QUICK if quick else sizes, first_port=first_port, budget_s=budget)
    try:
        outcomes = run(plan, chosen, output, say=lambda line: print(line, file=sys.stderr))
    except (MissingTool, ContenderFailed) as error:
        print(f"poolshift: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(summary(outcomes))
    print(f"{output}/results.md has the rest.", file=sys.stderr)
