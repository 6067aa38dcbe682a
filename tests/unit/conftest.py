"""A store for the unit tests that need one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store.database import Database
from tests.support.database import copy_migrated


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A migrated SQLite file of the test's own."""
    copy_migrated(tmp_path / "test.db")
    database = Database(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")
    await database.migrate()
    yield database
    await database.aclose()
