"""The pages' own service: their examples kill workers, which other tests rightly count on not to happen."""

from collections.abc import Iterator

import pytest

from tests.support.service import Service, running_service


@pytest.fixture(scope="session")
def shared_service(version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service pinned to `version` for the tests of the pages alone."""
    with running_service(tmp_path_factory.mktemp(f"pages-{version}"), POOL_VERSION=version) as service:
        yield service
