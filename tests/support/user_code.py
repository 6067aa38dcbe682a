"""A folder of a user's modules, which a test writes and changes."""

from pathlib import Path
from typing import Any


class UserCode:
    """The folder; `settings` let a service find its module `shop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a service that runs programs of the module."""
        return {"PYTHONPATH": self.folder, "PROGRAM_MODULES": "shop"}

    def write(self, source: str, name: str = "shop") -> None:
        """Puts a module in place, all at once. `FOLDER` in it is the path of the folder."""
        new = self.folder / f"{name}.new"
        new.write_text(f"FOLDER = {str(self.folder)!r}\n{source}")
        new.rename(self.folder / f"{name}.py")

    def touch(self, name: str) -> None:
        """Makes a file that modules can look for."""
        (self.folder / name).touch()

    def remove(self, name: str) -> None:
        """Removes such a file."""
        (self.folder / name).unlink()

    def lines(self, name: str) -> list[str]:
        """Returns the lines that modules have written to a file."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
