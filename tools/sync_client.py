"""Writes the client's half for threads from its half for asyncio, by taking the `async` out.

    python -m tools.sync_client [--check]

With `--check` it writes nothing, and exits with 1 if a file is not what it would write.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT = Path("poolshift/client")
HEADER = "# Generated from {source} by `make client`: change that file, not this one.\n\n"
SUBSTITUTIONS = (
    (r"\basync (?=def|for|with)", ""),
    (r"\bawait ", ""),
    (r"\bCoroutine\[Any, Any, (\w+)\]", r"\1"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b_async\b", "_sync"),
    (r"\basync_(?=\w)", ""),
    (r"\b__a(?=enter__|exit__|iter__)", "__"),
    (r"\ba(?=close\b|closing\b|iter_bytes\b)", ""),
    (r"\bimport asyncio\b", "import time"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bfor asyncio\b", "for any number of threads"),
)
"""Patterns and what replaces them, in this order."""
TIDY = ("--select=F401,I001,RUF100", "--config=lint.isort.known-first-party=['poolshift']")
"""Options of ruff: it sorts the imports, also of modules that are not there yet, and removes those without a use."""
LEFTOVER = re.compile(r"async|await|\ba(?:iter|next)\(", re.IGNORECASE)


def synchronous(source: Path) -> str:
    """Returns a module of the half for asyncio as one for threads.

    Raises:
        ValueError: a line has something asynchronous that no substitution takes out.
    """
    text = (ROOT / source).read_text()
    for pattern, replacement in SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text)
    text = _ruff("check", "--fix-only", "--quiet", *TIDY, text=text, target=target_of(source))
    for line in text.splitlines():
        if LEFTOVER.search(line):
            raise ValueError(f"{source}: {line.strip()!r} needs a substitution in {Path(__file__).name}")
    return _ruff("format", text=HEADER.format(source=source) + text, target=target_of(source))


def target_of(source: Path) -> Path:
    """Names the generated file of a module."""
    return CLIENT / "_sync" / source.name


def sources() -> list[Path]:
    """Lists the modules of the half for asyncio."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / CLIENT / "_async").glob("*.py"))


def _ruff(*command: str, text: str, target: Path) -> str:
    """Formats a text, or removes the imports that it does not need, by the rules for the file that it is for."""
    arguments = [str(Path(sys.executable).with_name("ruff")), *command, "--stdin-filename", str(target), "-"]
    done = subprocess.run(arguments, cwd=ROOT, input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ValueError(f"{target}: {done.stdout}{done.stderr}")
    return done.stdout


def stale() -> dict[Path, str | None]:
    """Returns the generated files that differ, with the text that they should have; None is no such file."""
    wanted: dict[Path, str | None] = {target_of(source): synchronous(source) for source in sources()}
    there = {path.relative_to(ROOT): path.read_text() for path in (ROOT / CLIENT / "_sync").glob("*.py")}
    return {path: wanted.get(path) for path in wanted | there if wanted.get(path) != there.get(path)}


def main(arguments: list[str]) -> int:
    """Writes or checks the files; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sync_client")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    differing = stale()
    for path, text in differing.items():
        if options.check:
            print(f"{path} is not what `make client` writes")
        elif text is None:
            (ROOT / path).unlink()
        else:
            (ROOT / path).write_text(text)
    return 1 if options.check and differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
