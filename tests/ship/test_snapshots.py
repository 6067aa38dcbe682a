"""The templates' output, line by line: a change of a template shows in review as a change of its output."""

import os
from pathlib import Path

import pytest

from tests.ship.tools import Chart

pytestmark = pytest.mark.ship

SNAPSHOTS = Path(__file__).parent / "snapshots"


def test_renders_what_it_did(bare_chart: Chart, values: Path) -> None:
    """No template changes unseen. After a change that is meant: `make ship-snapshots`."""
    lines = [line for line in bare_chart.template("-f", values).stdout.splitlines() if line.strip()]
    rendered = "\n".join(lines) + "\n"
    snapshot = SNAPSHOTS / f"{values.stem}.yaml"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(rendered)
    assert rendered == snapshot.read_text()
    assert not [line for line in lines if line != line.rstrip()]


def test_no_snapshot_is_left_over(values: Path) -> None:
    """A snapshot whose values are gone proves nothing."""
    from tests.ship.conftest import CASES

    assert {path.name for path in SNAPSHOTS.iterdir()} == {f"{path.stem}.yaml" for path in CASES}
