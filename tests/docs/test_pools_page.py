"""docs/pools.md: its settings, its faults and its commands are those of the code."""

import re

from common.backoff import backoff_s
from config.settings import Settings
from pools.process.interpreter import DESCRIBE_TIMEOUT_S
from poolshift.launcher.start import OLDEST_PYTHON
from tests.support.pages import codes, page, section, table
from tests.support.service import ROOT

PAGE = page("pools.md")
SOURCES = (
    "pools/process/interpreter.py",
    "pools/process/spawner.py",
    "pools/process/program_code.py",
    "pools/process/zygote_link.py",
    "poolshift/launcher/start.py",
)


def test_every_setting_exists() -> None:
    """The page names settings of the service and no other."""
    named = set(re.findall(r"`((?:V2_)?[A-Z]+_[A-Z_]+)`", PAGE))
    assert "V2_PROGRAMS_DIR" in named
    assert named <= {name.upper() for name in Settings.model_fields}


def test_every_fault_is_the_code_s() -> None:
    """The words of each fault, without the names in it, stand in the code."""
    code = " ".join((ROOT / source).read_text() for source in SOURCES if (ROOT / source).exists())
    for row in table(section(PAGE, "## If V2 cannot start"), "fault"):
        for fault in codes(row["fault"]):
            words = fault.replace("3.9.18", "…").replace("3.10", "…").replace(f"{DESCRIBE_TIMEOUT_S:g}", "…")
            parts = [part.strip(" ,:") for part in words.split("…")]
            assert fault == "Exec format error" or all(part in code for part in parts), fault


def test_its_numbers() -> None:
    """The oldest Python, and the longest pause between two starts."""
    assert f"Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer" in PAGE
    assert f"pauses of up to {backoff_s(100):g} s" in PAGE


def test_every_example_is_there() -> None:
    """The table has the folders, each with the end that its file expects."""
    ends = {"promoted": "promoted", "rolled_back": "rolled back", "paused": "paused"}
    told = {codes(row["example"])[0]: row["ends"] for row in table(section(PAGE, "## Examples"), "example")}
    found = {path.parent.name: path.read_text() for path in (ROOT / "examples" / "migrations").glob("*/migration.yaml")}
    assert set(told) == set(found)
    for name, text in found.items():
        expected = re.search(r"^expect: (\w+)$", text, re.MULTILINE)
        assert expected is not None
        assert told[name].startswith(ends[expected.group(1)])
