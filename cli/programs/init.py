"""`poolshift init DIR`: a folder of one's own, with a program, its test, its definition, a plan and an image."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandFailed, ExitCode

STARTER = Path(__file__).with_name("starter")
_SUFFIX = ".txt"
_HIDDEN = {"env": ".env", "gitignore": ".gitignore"}
"""Files whose names would hide them from git, or from the package."""
_FORMATTED = frozenset({"Dockerfile", "README.md"})

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is empty or not there yet.")],
) -> None:
    """Makes a folder with a program, its test, its definition, a rollout plan and a Dockerfile."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CommandFailed(ExitCode.CONFLICT, f"{folder} is not an empty folder: nothing has been written")
        for name, content in starter_files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(ExitCode.USAGE, f"{error.filename}: {error.strerror}") from None
    print(f"{folder}: README.md says how to go on")


def starter_files() -> dict[str, str]:
    """Returns the files of the folder by name."""
    files = {}
    for path in sorted(STARTER.rglob(f"*{_SUFFIX}")):
        name = path.relative_to(STARTER).as_posix().removesuffix(_SUFFIX)
        text = path.read_text(encoding="utf-8")
        files[_HIDDEN.get(name, name)] = text.format(version=version("poolshift")) if name in _FORMATTED else text
    return files
