"""Either client, and a service for it."""

from collections.abc import Iterator

import pytest

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from poolshift.client import NO_RETRY, Client
from tests.client.either import KINDS, Clients, Make
from tests.support.service import Service, running_service


@pytest.fixture(params=KINDS)
def make_client(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes clients that end with the test: for threads, then for asyncio."""
    clients = Clients(request.param)
    yield clients.make
    clients.close()


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An open service for all tests of the client; each makes its own programs."""
    directory = tmp_path_factory.mktemp("service-client")
    with running_service(directory, V1_POOL_SIZE=1, V2_POOL_SIZE=1, MAX_BODY_BYTES=65536) as service:
        yield service


@pytest.fixture(scope="package")
def keys() -> dict[str, str]:
    """A key for each scope."""
    return {str(scope): new_key() for scope in Scope}


@pytest.fixture(scope="package")
def keyed_service(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, str]) -> Iterator[Service]:
    """A service that asks for keys, with one worker and room for one waiting call."""
    directory = tmp_path_factory.mktemp("service-keyed")
    stored = tuple(
        StoredKey(name=name, hash=hash_key(key), scopes=frozenset({Scope(name)})) for name, key in keys.items()
    )
    path = directory / "keys.json"
    path.write_text(KeyFile(keys=stored).model_dump_json())
    with running_service(directory, API_KEYS_FILE=path, V1_POOL_SIZE=1, QUEUE_LIMIT=1, POOL_VERSION="v1") as service:
        yield service


@pytest.fixture
def client(make_client: Make, service: Service) -> Client:
    """A client of that service which tries everything once."""
    return make_client(service.url, retry=NO_RETRY)
