"""Large inputs and outputs: whole, on both versions, and no trouble for others."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from tests.conftest import StartService

MIB = 1024 * 1024


def test_ten_megabytes_in_and_out(start_service: StartService, version: str) -> None:
    """Several at once come back byte by byte, between small calls that are answered too; nothing dies of it."""
    service = start_service(POOL_VERSION=version, MAX_BODY_BYTES=32 * MIB)
    echo = service.create("echo", {"nonce": "string"})
    large = ["é" * (5 * MIB), "x" * (10 * MIB), '"\\' * (2 * MIB)]

    def digest(nonce: str) -> str:
        answer = service.execute(echo, inputs={"nonce": nonce})
        assert answer.status_code == 200, answer.text[:1000]
        return hashlib.sha256(answer.json()["outputs"]["result"].encode()).hexdigest()

    nonces = [*large, *(f"small {number}" for number in range(20)), *large]
    with ThreadPoolExecutor(4) as callers:
        answers = list(callers.map(digest, nonces))
    assert answers == [hashlib.sha256(nonce.encode()).hexdigest() for nonce in nonces]
    exits = service.pool(version)["totals"]["worker_exits"]
    assert not any(exits.get(cause) for cause in ("crash", "signal", "oom", "timeout"))


def test_a_body_at_the_limit(start_service: StartService, version: str) -> None:
    """A body of exactly `MAX_BODY_BYTES` is served, one byte more is 413."""
    service = start_service(POOL_VERSION=version, MAX_BODY_BYTES=MIB)
    echo = service.create("echo", {"nonce": "string"})
    frame = len(b'{"inputs":{"nonce":""}}')
    for size, status in ((MIB, 200), (MIB + 1, 413)):
        body = b'{"inputs":{"nonce":"' + b"x" * (size - frame) + b'"}}'
        answer = service.client.post(
            f"/programs/{echo}/execute", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == status
