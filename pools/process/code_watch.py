"""Finds new code on disk, from the revisions that a zygote sees there."""

from collections.abc import Callable


class CodeWatch:
    """Tells a listener of new code once two looks have found the same: a file may be half-written."""

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None
        self._seen: str | None = None
        self._told: str | None = None

    def __repr__(self) -> str:
        return f"<CodeWatch seen={self._seen} told={self._told}>"

    def look(self, on_disk: str | None, of_workers: str | None) -> None:
        """Compares the code on disk, if it is known, with that of new workers."""
        if on_disk is None:
            return
        is_settled, self._seen = on_disk == self._seen, on_disk
        if is_settled and on_disk not in (of_workers, self._told) and self.listener is not None:
            self._told = on_disk  # once: code that is refused is tried again when it changes
            self.listener()

    def workers_have(self, revision: str) -> None:
        """Notes the code that new workers have, just read from the disk."""
        self._seen = revision

    def pass_over(self, revision: str | None) -> None:
        """Does not tell of this code, which somebody has taken back."""
        self._told = revision
