"""The code of a pool, packed for its nodes: what they have, what they had before, and what is on disk."""

from collections.abc import Callable, Mapping

from common.threads import in_thread
from pools.errors import NoPreviousCode, SpawnFailed
from pools.process.program_code import ProgramCode
from pools.ray.code import pack, stamp
from poolshift.node.messages import Code


class PackedCode:
    """Packs the code on disk, and keeps it in memory."""

    def __init__(self, code: ProgramCode, environment: Mapping[str, str]) -> None:
        """Takes as `environment` the variables that go along."""
        self.present: Code | None = None
        """The code that a process gets which a node starts now."""
        self.previous_revision: str | None = None
        """The revision, as nodes told it, of the code before the last one that was another."""
        self.listener: Callable[[], None] | None = None
        """Called for new code on disk that is settled."""
        self._code = code
        self._environment = environment
        self._previous: Code | None = None
        self._told = b""
        self._seen = b""
        self._settled = b""

    def __repr__(self) -> str:
        return f"<PackedCode {self._code.programs_dir} previous={self.previous_revision}>"

    async def on_disk(self) -> Code:
        """Packs what is on disk.

        Raises:
            SpawnFailed: the folder of the programs is not there, or too large.
            OSError: a file cannot be read.
        """
        return await in_thread(lambda: pack(self._code, self._environment))

    async def ensure(self) -> None:
        """Packs the code if none is packed yet. Raises SpawnFailed, OSError."""
        self.present = self.present or await self.on_disk()

    def for_nodes(self) -> Code:
        """Returns the present code. Raises SpawnFailed if there is none yet."""
        if self.present is None:
            raise SpawnFailed("the programs are not packed yet")
        return self.present

    async def is_outdated(self) -> bool:
        """Tells if the folder of the programs has other code than nodes get. Raises SpawnFailed, OSError."""
        if self.present is None or self._code.programs_dir is None:
            return False
        return (await self.on_disk()).archive != self.present.archive

    def replaced(self, before: Code | None, revision: str | None) -> None:
        """Keeps `before`, which nodes had as `revision`, if the present code is another."""
        if before is not None and before.archive != self.for_nodes().archive:
            self._previous, self.previous_revision = before, revision

    def take_back(self) -> Code:
        """Returns the code before the present one, which is not told of as new from now on. Raises NoPreviousCode."""
        if self._previous is None:
            raise NoPreviousCode
        self._told = self.for_nodes().archive
        return self._previous

    async def look(self) -> None:
        """Tells of new code once two looks have found the same: a file may be half-written."""
        if self.listener is None or self.present is None or self._code.programs_dir is None:
            return
        try:
            found = await in_thread(lambda: stamp(self._code))
            is_settled, self._seen = found == self._seen, found
            if is_settled and found != self._settled:
                archive = (await self.on_disk()).archive
                self._settled = found
                self._tell(archive, self.present.archive)
        except (OSError, SpawnFailed):
            return  # a file went while the folder was read

    def _tell(self, archive: bytes, of_workers: bytes) -> None:
        """Calls the listener once for each change: code that is refused is tried again when it changes."""
        if archive not in (of_workers, self._told) and self.listener is not None:
            self._told = archive
            self.listener()
