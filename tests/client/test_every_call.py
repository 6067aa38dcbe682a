"""Every call of the client on a real service, and every error that is cheap to provoke."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from poolshift.client import (
    NO_RETRY,
    Client,
    Definition,
    Execution,
    ExecutionNotFound,
    Field,
    IncompatibleDefinition,
    InvalidInputs,
    JobCancelled,
    JobNotOver,
    Plan,
    PlanStep,
    ProgramNotFound,
    Progress,
    Retry,
    Signature,
    StaleRevision,
    StatusChange,
    executions,
    problems,
)
from tests.client.either import Make
from tests.support.service import Service
from tests.support.waiting import wait_until

PROGRAMS = "tests.support.programs"
HOLD = Signature(inputs=[Field("directory", "string"), Field("name", "string")], outputs=[Field("result", "string")])
ECHO = Signature(inputs=[Field("nonce", "string")], outputs=[Field("result", "string")])


def named(function: str, signature: Signature | None = ECHO, **more: Any) -> Definition:
    """A program of the test's own."""
    entrypoint = function if ":" in function else f"{PROGRAMS}:{function}"
    return Definition(
        id=f"p-{uuid.uuid4().hex}", program_type="python", entrypoint=entrypoint, signature=signature, **more
    )


@pytest.fixture
def echo(client: Client) -> str:
    """The id of a program that returns its input."""
    return client.programs.create(named("echo")).id


def test_the_life_of_a_program(client: Client) -> None:
    """Create, show, list, replace, revisions, delete."""
    definition = named("echo", instructions="Say it again.", idempotent=True)
    created = client.programs.create(definition)
    assert (created.id, created.instructions, created.revision) == (definition.id, "Say it again.", 1)
    assert created.signature.inputs[0].type == "string"
    assert client.programs.get(created.id) == created
    assert created in client.programs.list()
    assert len(list(client.programs.list(limit=1))) == 1

    other = msgspec.structs.replace(definition, instructions="Again.")
    replaced = client.programs.put(created.id, other, expected_revision=1)
    assert (replaced.revision, replaced.instructions) == (2, "Again.")
    with pytest.raises(StaleRevision) as stale:
        client.programs.put(created.id, body_of(created.id), expected_revision=1)
    assert stale.value.extensions["revision"] == 2
    with pytest.raises(StaleRevision):
        client.programs.put(created.id, body_of(created.id), only_if_new=True)
    assert client.programs.put(created.id, body_of(created.id), dry_run=True).revision == 3
    assert [one.revision for one in client.programs.revisions(created.id)] == [2, 1]
    (first,) = client.programs.revisions(created.id, before=2)
    assert first.definition["instructions"] == "Say it again."

    own = client.programs.put(created.id, other, pool_version="v2")
    assert (own.revision, own.v2) == (1, None)
    shown = client.programs.get(created.id).v2
    assert shown is not None
    assert (shown.revision, shown.instructions) == (1, "Again.")
    assert client.programs.get(created.id, pool_version="v2") == own
    assert [one.revision for one in client.programs.revisions(created.id, pool_version="v2")] == [1]
    with pytest.raises(StaleRevision):
        client.programs.promote(created.id, expected_revision=2)
    client.programs.delete(created.id, pool_version="v2")
    with pytest.raises(ProgramNotFound):
        client.programs.promote(created.id)
    with pytest.raises(IncompatibleDefinition):
        client.programs.put(created.id, msgspec.structs.replace(named("hold", HOLD), id=created.id), pool_version="v2")

    client.programs.delete(created.id)
    with pytest.raises(ProgramNotFound) as gone:
        client.programs.get(created.id)
    assert (gone.value.status, gone.value.code, gone.value.retry_safe) == (404, "program_not_found", True)


def body_of(program_id: str) -> dict[str, Any]:
    """Another definition, as the JSON of a file."""
    signature = {
        "inputs": [{"name": "text", "type": "string"}],
        "outputs": [{"name": "keywords", "type": "array"}],
    }
    return {
        "id": program_id,
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": signature,
    }


def test_a_derived_signature_goes_back(client: Client) -> None:
    """The signature of an answer can be put again, although its `derived` is in answers alone."""
    created = client.programs.create(named("echo", signature=None))
    assert created.signature.derived
    again = Definition(program_type="python", entrypoint=created.entrypoint, signature=created.signature)
    assert client.programs.put(created.id, again).signature.inputs == created.signature.inputs


@dataclass
class Said:
    """The outputs of `echo`."""

    result: str


def test_an_execution(client: Client, echo: str) -> None:
    """The outputs, the version, and the headers by the way."""
    execution = client.execute(echo, {"nonce": "ä"}, session_id="s-1", canary_key="k", headers={"Traceparent": "x"})
    assert execution.outputs == {"result": "ä"}
    assert execution.outputs_as(Said) == Said("ä")
    assert execution.program_id == echo
    assert client.execute(echo, {"nonce": "a"}, pool_version="v2", timeout_s=9.5).pool_version == "v2"
    answer = client.answer(executions.execute(echo, {"nonce": "a"}))
    assert answer.raw.headers["x-execution-id"] == answer.value.execution_id == answer.json()["execution_id"]


def test_a_call_with_a_key_runs_once(client: Client, echo: str) -> None:
    """The same key and call have the first answer; another call is an error."""
    key = f'a "key" \\ {uuid.uuid4().hex}'
    first = client.execute(echo, {"nonce": "a"}, idempotency_key=key)
    assert client.execute(echo, {"nonce": "a"}, idempotency_key=key) == first
    with pytest.raises(problems.IdempotencyConflict):
        client.execute(echo, {"nonce": "b"}, idempotency_key=key)
    with pytest.raises(ValueError, match="1 to 255"):
        client.execute(echo, {"nonce": "b"}, idempotency_key="ä")
    job = client.jobs.submit(echo, {"nonce": "a"}, idempotency_key=f"{key} of a job")
    assert client.jobs.submit(echo, {"nonce": "a"}, idempotency_key=f"{key} of a job").execution_id == job.execution_id


def test_a_batch(client: Client, echo: str) -> None:
    """Each item has its outcome; one that fails is an error that is not raised."""
    first, second, third = client.batch(echo, [{"nonce": "a"}, {"other": 1}, {"nonce": "c"}], pool_version="v2")
    assert isinstance(first, Execution)
    assert isinstance(third, Execution)
    assert (first.outputs, third.outputs) == ({"result": "a"}, {"result": "c"})
    assert isinstance(second, InvalidInputs)
    assert second.extensions["field"] == "other"
    assert client.batch(echo, []) == []


def test_a_stream(client: Client) -> None:
    """Progress as it comes, then the execution; `result` reads to the end."""
    steps = client.programs.create(
        named("steps", Signature(inputs=[Field("count", "integer")], outputs=[Field("result", "integer")]))
    )
    with client.stream(steps.id, {"count": 3}) as stream:
        *progress, execution = list(stream)
    assert progress == [Progress(0), Progress(1), Progress(2)]
    assert isinstance(execution, Execution)
    assert execution.outputs == {"result": 3}
    assert client.stream(steps.id, {"count": 0}).result().outputs == {"result": 0}


def test_an_error_after_events(client: Client) -> None:
    """The events before it are there."""
    failing = client.programs.create(
        named("steps_then_fail", Signature(inputs=[Field("count", "integer")], outputs=[Field("result", "any")]))
    )
    events = iter(client.stream(failing.id, {"count": 2}))
    assert [next(events), next(events)] == [Progress(0), Progress(1)]
    with pytest.raises(problems.ProgramError, match="out of steps") as raised:
        next(events)
    assert (raised.value.status, raised.value.retry_safe) == (500, False)
    with pytest.raises(InvalidInputs):
        client.stream(failing.id, {"count": "two"}).result()


def test_leaving_a_stream_cancels_it(client: Client, tmp_path: Path) -> None:
    """The worker is free for another call, although nobody lets the program go on."""
    holding = client.programs.create(named("steps_then_hold", HOLD))
    with client.stream(holding.id, {"directory": str(tmp_path), "name": "a"}, pool_version="v2") as stream:
        assert isinstance(next(iter(stream)), Progress)
    wait_until(lambda: client.pools.get("v2").idle == 1, "the worker is replaced")


def test_jobs(client: Client, echo: str, tmp_path: Path) -> None:
    """Submit, wait, show, list, cancel; the errors of `wait`."""
    job = client.jobs.submit(echo, {"nonce": "later"})
    assert client.jobs.wait(job).outputs == client.jobs.wait(job.execution_id).outputs == {"result": "later"}
    done = client.jobs.get(job.execution_id)
    assert (done.status, done.is_over, done.problem) == ("succeeded", True, None)
    assert done.execution_id in [one.execution_id for one in client.jobs.list(limit=100)]
    assert client.jobs.cancel(job.execution_id) == done

    wrong = client.jobs.submit(echo, {"other": 1})
    with pytest.raises(InvalidInputs) as raised:
        client.jobs.wait(wrong.execution_id)
    assert raised.value.execution_id == wrong.execution_id

    holding = client.programs.create(named("hold", HOLD))
    held = client.jobs.submit(holding.id, {"directory": str(tmp_path), "name": "a"})
    with pytest.raises(JobNotOver, match=r"is (queued|running) after"):
        client.jobs.wait(held.execution_id, timeout_s=0.05)
    assert client.jobs.cancel(held.execution_id).status in ("cancelled", "running")
    with pytest.raises(JobCancelled):
        client.jobs.wait(held.execution_id)
    with pytest.raises(ExecutionNotFound):
        client.jobs.get("no-such-job")


def test_the_events_of_a_job(client: Client) -> None:
    """From the beginning, from an event on, and after the end of the job."""
    steps = Signature(inputs=[Field("count", "integer")], outputs=[Field("result", "integer")])
    program_id = client.programs.create(named("steps", steps)).id
    job = client.jobs.submit(program_id, {"count": 2})
    with client.jobs.events(job.execution_id) as events:
        first, *progress, execution = list(events)
    assert first == StatusChange("running")
    assert progress == [Progress(0), Progress(1)]
    assert execution == client.jobs.wait(job.execution_id)
    rest = list(client.jobs.events(job.execution_id, after="2"))
    assert rest == [Progress(1), execution]
    wrong = client.jobs.submit(program_id, {"count": "two"})
    with pytest.raises(InvalidInputs):
        client.jobs.events(wrong.execution_id).result()


def test_sessions_and_their_language_models(client: Client, echo: str) -> None:
    """A session begins with a call; it has a language model of its own until it ends."""
    session = f"s-{uuid.uuid4().hex}"
    client.execute(echo, {"nonce": "a"}, session_id=session)
    wait_until(lambda: session in [one.id for one in client.sessions.list()], "the session is listed")
    assert client.sessions.get(session).execution_count == 1
    assert client.lm.get().set_for == "everyone"
    lm = client.lm.set("openai/x", session_id=session, api_base="http://127.0.0.1:9/v1", api_key="sk-1", temperature=1)
    assert (lm.model, lm.set_for, lm.has_api_key, lm.temperature) == ("openai/x", "session", True, 1)
    assert client.lm.get(session) == lm
    client.lm.remove(session)
    assert client.lm.get(session).set_for == "everyone"
    assert client.lm.set("none").model == "none"
    client.lm.remove()
    assert client.lm.restore().model == "none"
    of_v2 = client.lm.set("openai/y", pool_version="v2")
    assert (client.lm.get(pool_version="v2"), of_v2.set_for) == (of_v2, "version")
    client.lm.remove(pool_version="v2")
    assert client.lm.get(pool_version="v2").model == "none"
    client.sessions.end(session)
    with pytest.raises(problems.SessionNotFound):
        client.sessions.end(session)


def test_the_flag(client: Client) -> None:
    """Change, roll back, history; the revision guards against others' changes."""
    changed = client.rollout.change(0.01, reason="first step")
    assert (changed.canary_percent, changed.reason) == (0.01, "first step")
    assert client.rollout.get() == changed
    with pytest.raises(StaleRevision):
        client.rollout.change(50, expected_revision=changed.revision - 1)
    assert client.rollout.change(1, expected_revision=changed.revision).revision == changed.revision + 1
    back = client.rollout.roll_back(reason="enough", in_flight="replay")
    assert (back.canary_percent, back.source) == (0, "rollback")
    newest, before = client.rollout.history(limit=2)
    assert (newest.to_percent, newest.from_percent, before.to_percent) == (0, 1, 1)


def test_a_ramp(client: Client) -> None:
    """Each move of a ramp, and the evidence behind it."""
    with pytest.raises(problems.InvalidPlan):
        client.rollout.set_plan({"steps": []})
    plan = Plan(name="slow", steps=[PlanStep(percent=1, hold_s=3600), PlanStep(percent=50, hold_s=1, approval=True)])
    assert client.rollout.set_plan(plan).steps[1].approval
    assert client.rollout.set_plan(b"name: by-file\nsteps: [{percent: 2, hold_s: 60}]").name == "by-file"
    assert client.rollout.plan().name == "by-file"
    try:
        assert client.rollout.start(reason="go").state == "ramping"
        assert client.rollout.pause().state == "paused"
        assert client.rollout.resume(reason="on").state in ("ramping", "waiting")
        with pytest.raises(problems.PlanConflict):
            client.rollout.start()
        with pytest.raises(problems.PlanConflict):
            client.rollout.approve(step=2)
        assert client.rollout.approve(step=1).step == 1
        assert {one.name for one in client.rollout.analysis()} >= {"engine", "latency"}
        assert client.rollout.promote().state == "promoted"
        assert client.rollout.status().canary_percent == 100
        with pytest.raises(problems.PlanConflict):
            client.rollout.start()
        client.rollout.start(lower=True)
    finally:
        assert client.rollout.abort(reason="enough").state == "aborted"
    assert isinstance(list(client.rollout.decisions(limit=5)), list)
    assert client.rollout.trace().dropped == 0
    client.rollout.clear_plan()
    with pytest.raises(problems.NotFound):
        client.rollout.plan()


def test_pools_and_health(client: Client) -> None:
    """The pools with their workers, before and after a reload."""
    assert [pool.pool_version for pool in client.pools.list()] == ["v1", "v2"]
    before = client.pools.get("v1")
    after = client.pools.reload("v1")
    assert after.totals.worker_starts > before.totals.worker_starts
    assert {worker.pid for worker in after.workers}.isdisjoint(worker.pid for worker in before.workers)
    assert after.last_reload is not None
    assert (after.last_reload.after, after.previous_revision) == (after.programs_revision, None)
    with pytest.raises(problems.RollbackImpossible):
        client.pools.reload("v1", previous=True)
    both = client.pools.reload_all(force=True, reason="as the test has it")
    assert [pool.last_reload and pool.last_reload.reason for pool in both] == ["as the test has it"] * 2
    assert client.health().status == "ok"
    assert client.readiness().ready
    assert "poolshift_requests_total" in client.metrics()


Provoke = Callable[[Client, str], object]
FAULTS: dict[str, Provoke] = {
    "invalid_request": lambda client, echo: client.execute(echo, {"nonce": "a"}, session_id="a/b"),
    "payload_too_large": lambda client, echo: client.execute(echo, {"nonce": "x" * 80_000}),
    "not_found": lambda client, echo: client.pools.get("../a"),
    "program_not_found": lambda client, echo: client.execute("no-such-program"),
    "session_not_found": lambda client, echo: client.sessions.get("no-such-session"),
    "session_ended": lambda client, echo: client.execute(echo, {"nonce": "a"}, session_id=ended(client)),
    "execution_not_found": lambda client, echo: client.jobs.cancel("no-such-job"),
    "program_exists": lambda client, echo: client.programs.create({**body_of(echo)}),
    "stale_revision": lambda client, echo: client.programs.put(echo, body_of(echo), expected_revision=7),
    "invalid_plan": lambda client, echo: client.rollout.set_plan(b"steps: 7"),
    "plan_conflict": lambda client, echo: client.rollout.resume(),
    "invalid_inputs": lambda client, echo: client.execute(echo, {"nonce": 1}),
    "invalid_outputs": lambda client, echo: client.execute(of(client, "sleep", "seconds", "number"), {"seconds": 0}),
    "program_error": lambda client, echo: client.execute(of(client, "fail", "message"), {"message": "no"}),
    "worker_crashed": lambda client, echo: client.execute(of(client, "exits_if", "nonce"), {"nonce": "exit"}),
    "execution_timeout": lambda client, echo: client.execute(
        of(client, "sleep", "seconds", "number"), {"seconds": 60}, timeout_s=0.3
    ),
}


def ended(client: Client) -> str:
    """A session that had an LM of its own and has ended."""
    session = f"ended-{uuid4().hex}"
    client.lm.set("none", session_id=session)
    client.sessions.end(session)
    return session


def of(client: Client, function: str, field: str, kind: str = "string") -> str:
    signature = Signature(inputs=[Field(field, kind)], outputs=[Field("result", "string")])
    return client.programs.create(named(function, signature)).id


@pytest.mark.parametrize("code", FAULTS)
def test_an_error_of_the_service_is_its_class(client: Client, echo: str, code: str) -> None:
    """Each code that is cheap to provoke; none is repeated."""
    with pytest.raises(problems.CLASSES[code]) as raised:
        FAULTS[code](client, echo)
    assert (raised.value.code, raised.value.attempts) == (code, 1)
    assert raised.value.detail


@pytest.mark.service
def test_a_wrong_key_and_a_key_without_the_scope(
    make_client: Make, keyed_service: Service, keys: dict[str, str]
) -> None:
    """Both are errors of their own, and no request goes out twice."""
    with pytest.raises(problems.Unauthorized):
        make_client(keyed_service.url, api_key="").rollout.get()
    with pytest.raises(problems.Unauthorized):
        list(make_client(keyed_service.url, api_key="psk_wrong").programs.list())
    caller = make_client(keyed_service.url, api_key=keys["execute"])
    assert list(caller.programs.list()) == []
    with pytest.raises(problems.Forbidden):
        caller.rollout.roll_back()
    assert make_client(keyed_service.url, api_key=keys["admin"]).rollout.roll_back().canary_percent == 0


@pytest.mark.service
def test_an_overloaded_pool(make_client: Make, keyed_service: Service, keys: dict[str, str], tmp_path: Path) -> None:
    """The call is refused with a time to wait; a client that repeats it gets through once there is room."""
    client = make_client(keyed_service.url, api_key=keys["admin"], retry=NO_RETRY)
    hold = client.programs.create(named("hold", HOLD)).id
    jobs = [client.jobs.submit(hold, {"directory": str(tmp_path), "name": name}) for name in ("a", "b")]
    wait_until(lambda: client.pools.get("v1").queue_depth == 1, "the queue is full")
    with pytest.raises(problems.PoolOverloaded) as raised:
        client.execute(hold, {"directory": str(tmp_path), "name": "c"})
    assert raised.value.retry_safe
    assert raised.value.retry_after is not None
    (tmp_path / "go").touch()
    patient = client.with_options(retry=Retry(attempts=20))
    assert patient.execute(hold, {"directory": str(tmp_path), "name": "d"}).outputs == {"result": "d"}
    assert [client.jobs.wait(job.execution_id).outputs["result"] for job in jobs] == ["a", "b"]
