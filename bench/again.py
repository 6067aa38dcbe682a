"""Writes the report and the plot of a run again, from its results.json.

python -m bench.again RESULTS FOLDER
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec

from bench.machine import Machine
from bench.outcome import Outcome
from bench.plan import Plan
from bench.report import as_markdown


class Results(msgspec.Struct):
    """The content of a results.json."""

    machine: Machine
    plan: Plan
    outcomes: list[Outcome]


def read(path: Path) -> Results:
    """Reads the results of a run."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write(results: Results, folder: Path) -> None:
    """Writes results.md and, if matplotlib is installed, results.svg to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.md").write_text(as_markdown(results.machine, results.plan, results.outcomes, missing=()))
    if find_spec("matplotlib") is not None:
        from bench.plot import plot  # noqa: PLC0415 - only the bench's own environment has it

        plot(results.machine, results.outcomes, folder / "results.svg")


if __name__ == "__main__":
    write(read(Path(sys.argv[1])), Path(sys.argv[2]))
