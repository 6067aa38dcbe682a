"""Checks with many calls at once: concurrency, and sessions that must not cross."""

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from cli.validation.conformance import Mismatch, Target, expect
from cli.validation.outcome import Outcome

SLEEP_S = 0.5
SESSIONS = 12
ROUNDS = 4


def check_concurrency(client: httpx.Client, sizes: dict[str, int]) -> Outcome:
    """Sleeps on all workers of each version, and counts the calls that ran at one moment."""
    overlaps: dict[str, int] = {}
    for version, size in sizes.items():
        target = Target(client, version)
        program = target.create("interval")
        target.result(program, inputs={"seconds": 0})  # loaded, so that no call waits for that
        overlaps[version] = max(_overlap(target, program, size) for _ in range(2))
    wanted, found = sizes["v2"], overlaps["v2"]
    told = ", ".join(f"{version}: {overlap} of {sizes[version]} at once" for version, overlap in overlaps.items())
    if found >= wanted:
        return Outcome("concurrency", "met", told, figures={"overlaps": overlaps, "sizes": sizes})
    how = "V2_ENGINE=session_pool_v2"
    return Outcome("concurrency", "not_met", f"V2 runs {found} calls at once with {wanted} workers ({told})", how)


def _overlap(target: Target, program: str, size: int) -> int:
    """The most calls of `size` that ran at the same moment."""
    with ThreadPoolExecutor(size) as callers:
        calls = [callers.submit(target.result, program, inputs={"seconds": SLEEP_S}) for _ in range(size)]
        intervals = [call.result() for call in calls]
    edges = sorted([(one["began"], 1) for one in intervals] + [(one["ended"], -1) for one in intervals])
    return max(itertools.accumulate(step for _, step in edges))


def check_sessions(client: httpx.Client, versions: list[str]) -> Outcome:
    """Has sessions with programs of one name call at once, end and come back; each must see its own alone."""
    try:
        for version in versions:
            _interleave(Target(client, version))
    except Mismatch as error:
        return Outcome("sessions", "not_met", str(error), "compare the sessions' programs: poolshift sessions list")
    count = len(versions) * SESSIONS * ROUNDS
    return Outcome("sessions", "met", f"{count} rounds of {SESSIONS} sessions with programs and models of one name")


def _interleave(target: Target) -> None:
    run = uuid.uuid4().hex[:8]
    with ThreadPoolExecutor(SESSIONS) as callers:
        for done in [callers.submit(_session, target, f"validation-{run}-{number}") for number in range(SESSIONS)]:
            done.result()


def _session(target: Target, session: str) -> None:
    """Creates, calls and replaces a program that all other sessions have under the same id."""
    client = target.client
    for number in range(ROUNDS):
        secret = f"{session} {number}"
        body = _definition(secret)
        stored = client.put("/programs/shared", params={"session_id": session}, json=body)
        expect(stored.is_success, f"PUT /programs/shared: {stored.status_code} {stored.text}")
        model = f"model-of-{session}"
        put = client.put(f"/sessions/{session}/lm", json={"model": model})
        expect(put.is_success, f"PUT /sessions/{{id}}/lm: {put.status_code} {put.text}")
        for nonce in (secret, secret[::-1]):
            answer = target.execute("shared", session_id=session, inputs={"nonce": nonce})
            expect(answer.status_code == 200, f"{answer.status_code} {answer.text}")
            found = answer.json()["outputs"]["result"]
            expect(found["nonce"] == nonce, f"session {session} got the inputs of another call: {found['nonce']}")
            expect(found["secret"] == secret, f"session {session} ran the program of {found['secret']}")
        seen = client.get(f"/sessions/{session}/lm").json()["model"]
        expect(seen == model, f"session {session} has the model {seen}")
    expect(client.delete(f"/sessions/{session}").status_code == 204, f"session {session} does not end")
    gone = target.execute("shared", session_id=session, inputs={"nonce": "a"})
    expect(gone.status_code == 410, f"session {session} has ended, and a call in it gets {gone.status_code}, not 410")


def _definition(secret: str) -> dict[str, Any]:
    inputs = [
        {"name": "nonce", "type": "string"},
        {"name": "secret", "type": "string", "required": False, "default": secret},
    ]
    signature = {"inputs": inputs, "outputs": [{"name": "result", "type": "object"}]}
    return {"program_type": "python", "entrypoint": "poolshift.validation:answer", "signature": signature}
