"""Provokes the errors of the taxonomy on both versions and compares the answers."""

import re
import threading
from collections.abc import Callable
from typing import Any

import httpx

from cli.validation.conformance import Target
from cli.validation.outcome import Outcome

QUEUE_LIMIT = 1
"""The queue of the scratch service, in calls: small, so that it can be filled."""
CHECKOUT_TIMEOUT_S = 1

Provocation = Callable[[Target], httpx.Response | None]
"""Returns the answer; None if the error cannot be provoked on these pools."""


def compare_errors(client: httpx.Client, versions: list[str]) -> Outcome:
    """Provokes each error on both versions; the answers must be equal but for ids, times and the version."""
    differing: list[str] = []
    unanswered: list[str] = []
    seen: dict[str, Any] = {}
    for code, provoke in PROVOCATIONS.items():
        try:
            given = {version: provoke(Target(client, version)) for version in versions}
        except (httpx.HTTPError, KeyError, ValueError) as error:
            unanswered.append(f"{code}: {type(error).__name__} {error}")
            continue
        answers = {version: _normal(answer) for version, answer in given.items() if answer is not None}
        if len(answers) == len(versions):
            seen[code] = answers
            differing += _differences(code, answers)
    if differing:
        return Outcome("errors", "not_met", "; ".join(differing), "compare GET /failures of both versions", seen)
    if unanswered:
        return Outcome("errors", "unknown", f"no answer to {'; '.join(unanswered)}", "run it again", seen)
    return Outcome(
        "errors", "met", f"{len(seen)} of {len(PROVOCATIONS)} errors are equal in status, code and body", figures=seen
    )


def _differences(code: str, answers: dict[str, dict[str, str]]) -> list[str]:
    """Tells which version gives another code, or which fields differ."""
    wrong = [
        f"{version} answers {one['status']} {one['code']}" for version, one in answers.items() if one["code"] != code
    ]
    if wrong:
        return [f"{code}: {', '.join(wrong)}"]
    names = {name for one in answers.values() for name in one}
    fields = sorted(name for name in names if len({one.get(name) for one in answers.values()}) > 1)
    return [f"{code}: {', '.join(fields)} differ"] if fields else []


def _normal(answer: httpx.Response) -> dict[str, str]:
    """An answer without what differs from call to call: ids, numbers, and the version."""
    body = answer.json()
    body = body if isinstance(body, dict) else {}
    kept = {name: value for name, value in body.items() if name not in ("execution_id", "pool_version")}
    texts = {name: re.sub(r"[0-9a-f]{16,}|\d+(\.\d+)?", "#", str(value)) for name, value in kept.items()}
    return texts | {"status": str(answer.status_code), "code": str(body.get("code", "none"))}


def _no_program(target: Target) -> httpx.Response:
    return target.execute("no-such-program", inputs={})


def _malformed(target: Target) -> httpx.Response:
    return target.client.post(f"/programs/{target.create('echo')}/execute", content=b"{", headers=target.headers)


def _too_large(target: Target) -> httpx.Response:
    return target.execute(target.create("echo"), inputs={"nonce": "x" * (1024 * 1024 + 1)})


def _wrong_inputs(target: Target) -> httpx.Response:
    return target.execute(target.create("echo"), inputs={"nonce": 1})


def _wrong_outputs(target: Target) -> httpx.Response:
    signature = {"inputs": [{"name": "nonce", "type": "string"}], "outputs": [{"name": "result", "type": "string"}]}
    return target.execute(target.create("wrong_type", signature=signature), inputs={"nonce": "a"})


def _exception(target: Target) -> httpx.Response:
    return target.execute(target.create("raises"), inputs={"message": "boom"})


def _deadline(target: Target) -> httpx.Response:
    return target.execute(target.create("interval"), inputs={"seconds": 30}, timeout_s=0.2)


def _crash(target: Target) -> httpx.Response:
    return target.execute(target.create("exits"), inputs={"status": 3})


def _failing_setup(target: Target) -> httpx.Response:
    return target.execute(target.create("Fails"), inputs={"nonce": "a"})


def _without_lm(target: Target) -> httpx.Response | None:
    """Runs a DSPy program; if a pool's Python has no DSPy, there is none."""
    signature = {"inputs": [{"name": "q", "type": "string"}], "outputs": [{"name": "a", "type": "string"}]}
    created = target.client.post("/programs", json={"program_type": "predict", "signature": signature})
    return target.execute(created.json()["id"], inputs={"q": "a"}) if created.is_success else None


def _quarantine(target: Target) -> httpx.Response:
    program = target.create("exits", instructions=f"of {target.version}")
    answer = target.execute(program, inputs={"status": 3})
    for _ in range(10):
        if answer.json().get("code") == "program_quarantined":
            break
        answer = target.execute(program, inputs={"status": 3})
    return answer


def _overload(target: Target) -> httpx.Response:
    """Fills all workers and the queue, and returns the answer of the first call that was shed."""
    program = target.create("interval")
    answers: list[httpx.Response] = []

    def call() -> None:
        answers.append(target.execute(program, inputs={"seconds": 3}, timeout_s=20))

    threads = [threading.Thread(target=call) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shed = [one for one in answers if one.status_code == 503 and one.json()["code"] == "pool_overloaded"]
    return shed[0] if shed else answers[0]


PROVOCATIONS: dict[str, Provocation] = {
    "program_not_found": _no_program,
    "invalid_request": _malformed,
    "payload_too_large": _too_large,
    "invalid_inputs": _wrong_inputs,
    "invalid_outputs": _wrong_outputs,
    "program_error": _exception,
    "execution_timeout": _deadline,
    "worker_crashed": _crash,
    "load_failed": _failing_setup,
    "lm_not_configured": _without_lm,
    "program_quarantined": _quarantine,
    "pool_overloaded": _overload,
}
"""The errors that a version gives, each with the way to provoke it."""

SETTINGS = {
    "QUEUE_LIMIT": str(QUEUE_LIMIT),
    "CHECKOUT_TIMEOUT_S": str(CHECKOUT_TIMEOUT_S),
}
"""The settings with which the scratch service can be overloaded."""
