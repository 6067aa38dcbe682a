"""The whole bench: the scenarios one after another, then the reports."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from bench.arena import Arena, on_by_title
from bench.collector import Collector
from bench.load import require_tools
from bench.machine import this_machine
from bench.outcome import Figure, Outcome
from bench.plan import SIMULATED, Plan
from bench.report import as_json, as_markdown, summary
from bench.scenarios import scenario
from bench.servers import free_port


def run(plan: Plan, scenarios: Sequence[str], output: Path, say: Callable[[str], None]) -> str:
    """Runs `scenarios` and writes results.json, results.md and, where matplotlib is installed, results.svg to `output`.

    Returns what they come to, in a few lines.

    Raises:
        MissingTool: a load generator is not installed.
        GeneratorFailed: one does not work.
        ContenderFailed: a contender does not start, ends or gives a wrong answer.
        OSError: `output` cannot be written to; found before anything is measured.

    """
    if set(scenarios) - SIMULATED:
        require_tools()
    output.mkdir(parents=True, exist_ok=True)
    plot_path = output / "results.svg"
    plot_path.unlink(missing_ok=True)  # another run's, of other figures
    (output / "results.md").write_text("This run is not over.\n")
    machine = this_machine()
    with (
        tempfile.TemporaryDirectory(prefix="poolshift-bench-") as directory,
        Collector(free_port(plan.first_port)) as collector,
    ):
        arena = Arena(plan, Path(directory), collector.url, say)
        outcomes = []
        began = time.monotonic()
        for name in scenarios:
            elapsed_s = time.monotonic() - began
            if elapsed_s > plan.budget_s:
                arena.missing.add(f"the scenario {name}, since the time was up (--budget)")
                continue
            say(f"{name} ({elapsed_s:.0f} s so far)")
            arena.on.clear()
            outcome = scenario(name)(arena)
            outcomes.append(replace(outcome, on=on_by_title(arena.on, outcome.loads)))
    outcomes.append(_traces(collector))
    missing = sorted(arena.missing)
    (output / "results.json").write_text(as_json(machine, plan, outcomes))
    (output / "results.md").write_text(as_markdown(machine, plan, outcomes, missing))
    if find_spec("matplotlib") is not None:
        from bench.plot import plot  # noqa: PLC0415 - only the bench's own environment has it

        plot(machine, outcomes, plot_path)
    return summary(machine, outcomes, missing)


def _traces(collector: Collector) -> Outcome:
    return Outcome(
        scenario="traces",
        conditions="1 % of the calls of every Poolshift contender but the unobserved one, as OTLP to a collector",
        figures=[Figure("spans that arrived", collector.spans, "")],
        notes=[] if collector.spans else ["None arrived: what is measured above has no traces in it."],
    )
