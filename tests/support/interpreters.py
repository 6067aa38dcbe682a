"""Interpreters of the machine, and virtual environments that tests make of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def interpreter(version: str) -> str | None:
    """A Python of this version: the system's, or one that pyenv has."""
    built = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    return str(built[-1]) if built else shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin")


def other_interpreter() -> str:
    """A Python of another version than the test's, if the machine has one; else the test's own."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    others = (interpreter(version) for version in reversed(PYTHONS) if version != own)
    return next(filter(None, others), sys.executable)


def virtual_environment(place: Path, python: str, *requirements: str) -> Path:
    """Makes a virtual environment and returns its interpreter; skips the test if packages cannot be had."""
    uv = Path(sys.executable).with_name("uv")
    commands = [["venv", "--python", python, str(place)]]
    if requirements:
        commands.append(["pip", "install", "--python", str(place), *requirements])
    for command in commands:
        made = subprocess.run([uv, *command], check=False, capture_output=True, text=True, timeout=120)
        if made.returncode:
            pytest.skip(f"no environment could be made: {made.stderr.strip()[-300:]}")
    return place / "bin" / "python"
