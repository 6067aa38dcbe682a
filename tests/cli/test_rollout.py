"""`poolshift rollout` and `poolshift pools`."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

from tests.cli.conftest import Poolshift, lines
from tests.conftest import StartService
from tests.support.database import write_locked
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until


def test_set_get_rollback_history(operator: Poolshift, service: Service) -> None:
    """An operator's path, each step as the service has it afterwards."""
    before = operator.json("rollout", "get")
    assert before == service.client.get("/rollout").json()

    changed = operator.json("rollout", "set", 12.34, "--reason", "a try")
    assert changed == operator.json("rollout", "get")
    assert (changed["canary_percent"], changed["reason"], changed["source"]) == (12.34, "a try", "api")
    assert changed["revision"] == before["revision"] + 1

    back = operator.json("rollout", "rollback", "--reason", "enough")
    assert (back["canary_percent"], back["reason"], back["source"]) == (0, "enough", "rollback")
    assert back == operator.json("rollout", "get") == service.client.get("/rollout").json()

    assert operator.json("rollout", "history", "--limit", 2) == [
        {"from_percent": 12.34, "to_percent": 0, **changes(back)},
        {"from_percent": before["canary_percent"], "to_percent": 12.34, **changes(changed)},
    ]


def changes(rollout: dict[str, object]) -> dict[str, object]:
    """The history's columns beside the percentages."""
    return {
        name: rollout[name] for name in ("shadow_percent", "revision", "source", "updated_at", "updated_by", "reason")
    }


def test_a_stale_revision_changes_nothing(operator: Poolshift) -> None:
    """Exit code 4, so that a script can look again and decide anew; with the revision in force it goes through."""
    revision = operator.json("rollout", "set", 1)["revision"]
    complaint = operator.fails(4, "rollout", "set", 2, "--if-revision", revision - 1)
    assert complaint.startswith("stale_revision: ")
    assert str(revision) in complaint
    assert operator.json("rollout", "get")["canary_percent"] == 1
    assert operator.json("rollout", "set", 2, "--if-revision", revision)["revision"] == revision + 1


def test_what_the_service_refuses(operator: Poolshift) -> None:
    """Exit code 1 and the problem's code; whether a step is too fine is the service's to say."""
    before = operator.json("rollout", "get")
    assert operator.fails(1, "rollout", "set", 0.001).startswith("invalid_request: body.canary_percent: ")
    assert operator.fails(1, "rollout", "set", 1, "--reason", "x" * 1025).startswith("invalid_request: body.reason: ")
    assert operator.json("rollout", "get") == before


def test_people_get_tables(operator: Poolshift) -> None:
    """The same in columns, with times to the second; what is not there is a dash."""
    revision = operator.json("rollout", "set", 25, "--reason", "[bold]half[/bold] of a half")["revision"]
    shown = operator.succeeds("rollout", "get")
    assert ["canary", "25", "%"] in lines(shown)
    assert ["revision", str(revision)] in lines(shown)
    assert ["reason", "[bold]half[/bold]", "of", "a", "half"] in lines(shown)

    operator.succeeds("rollout", "set", 0)
    header, newest, previous = lines(operator.succeeds("rollout", "history", "--limit", 2))
    assert header == ["REVISION", "FROM", "%", "TO", "%", "SOURCE", "WHEN", "WHO", "WHY"]
    assert [*newest[:4], newest[-2], newest[-1]] == [str(revision + 1), "25", "0", "api", "anonymous", "-"]
    assert [previous[0], *previous[-4:]] == [str(revision), "[bold]half[/bold]", "of", "a", "half"]


def test_history_asks_for_page_after_page(operator: Poolshift, service: Service) -> None:
    """A limit over what the service gives at once is met all the same, each change once and in order."""
    for _ in range(1002):
        assert service.client.patch("/rollout", json={"canary_percent": 3}).status_code == 200
    revisions = [change["revision"] for change in operator.json("rollout", "history", "--limit", 1001)]
    newest = operator.json("rollout", "get")["revision"]
    assert revisions == list(range(newest, newest - 1001, -1))


def test_a_pin_is_said(poolshift: Poolshift, shared_service: Service, version: str) -> None:
    """If POOL_VERSION overrides the canary, the command says so."""
    shown = poolshift.at(shared_service.url).succeeds("rollout", "get")
    assert f"{version}: POOL_VERSION overrides the canary" in shown


def test_pools(operator: Poolshift, service: Service) -> None:
    """Both pools, or one with the processes that work for it."""
    header, v1, v2 = lines(operator.succeeds("pools"))
    assert header[:4] == ["POOL", "READY", "SIZE", "BUSY"]
    assert [v1[:3], v2[:3]] == [["v1", "yes", "2"], ["v2", "yes", "2"]]

    assert [pool["pool_version"] for pool in operator.json("pools")] == ["v1", "v2"]
    pool = operator.json("pools", "v2")
    assert pool["pool_version"] == "v2"
    pids = {worker["pid"] for worker in service.pool("v2")["workers"]}
    assert {worker["pid"] for worker in pool["workers"]} == pids
    shown = lines(operator.succeeds("pools", "v2"))
    assert {line[0] for line in shown[-2:]} == {str(pid) for pid in pids}


def test_a_rollback_is_verified(operator: Poolshift) -> None:
    """Three lines, each with its time or count, and exit code 0; the same as JSON."""
    operator.succeeds("rollout", "set", 50)
    told = operator.succeeds("rollout", "rollback", "--verify").splitlines()
    assert [line[:3] for line in told] == ["yes"] * 3
    assert "in force on 1 of 1 replicas after" in told[0]
    assert "V2 got 0 calls of the split" in told[1]
    assert "live workers" in told[2]


def test_a_rollback_under_which_every_call_fails_is_not_verified(operator: Poolshift, service: Service) -> None:
    """A program that raises on V1 too: exit code 1, and the line names the code that callers get."""
    program = service.create("fail", {"message": "string"})
    operator.succeeds("rollout", "set", 50)
    with calling(service, program, message="still"):
        ended = operator("rollout", "rollback", "--verify")
    assert ended.returncode == 1
    in_force, split, answers = ended.stdout.splitlines()
    assert (in_force[:3], split[:3]) == ("yes", "yes")
    assert re.fullmatch(r"NO   V1 answered (\d+) calls in 5 s, faults: \1 program_error", answers), answers


def test_a_rollback_under_a_pin_to_v2_is_not_verified(poolshift: Poolshift, start_service: StartService) -> None:
    """All calls still go to V2: exit code 1, with the setting that does it."""
    service = start_service(POOL_VERSION="v2")
    program = service.create("echo", {"nonce": "string"})
    with calling(service, program, nonce="a"):
        ended = poolshift.at(service.url)("rollout", "rollback", "--verify")
    assert ended.returncode == 1
    in_force, pin, dispatched, answers = ended.stdout.splitlines()
    assert in_force.startswith("yes")
    assert pin == "NO   POOL_VERSION=v2 sends all calls to V2 whatever the rollout says: start the service without it"
    assert re.fullmatch(r"NO   V2 got [1-9]\d* calls in 5 s", dispatched), dispatched
    assert re.fullmatch(r"yes  V2 answered [1-9]\d* calls in 5 s, faults: none", answers), answers


def test_what_decides_in_the_place_of_the_flag(poolshift: Poolshift, start_service: StartService) -> None:
    """A percentage that was set before, or is set meanwhile, is shown with what becomes of it."""
    service = start_service(POOL_VERSION="v1")
    operator = poolshift.at(service.url)
    note = "POOL_VERSION=v1 pins all calls; V2 gets 1 % from a start without it on"
    assert operator.json("rollout", "set", 1)["note"] == note
    assert note in operator.succeeds("rollout", "get")
    service.stop()
    with running_service(service.directory, POOLS="v2", RETIRE_V1="anyway") as alone:
        operator = poolshift.at(alone.url)
        shown = operator.json("rollout", "get")
        note = "POOLS=v2: without V1 all calls are V2's, although the flag has 1 %"
        assert (shown["canary_percent"], shown["note"]) == (100, note)
        assert note in operator.succeeds("rollout", "get")


def test_a_database_that_cannot_be_written(poolshift: Poolshift, start_service: StartService) -> None:
    """`status` says so, with the time; a rollback is verified all the same, and told as not written."""
    service = start_service()
    operator = poolshift.at(service.url)
    operator.succeeds("rollout", "set", 50)
    assert operator.json("rollout", "status")["database"] is None
    with write_locked(service.directory / "poolshift.db"):
        ended = operator("rollout", "rollback", "--verify")
        assert ended.returncode == 1
        *found, written = ended.stdout.splitlines()
        assert [line[:3] for line in found] == ["yes"] * 3
        assert written.startswith("NO   not written to the database yet, so that a restart would forget it: store_")
        database = next(line for line in lines(operator.succeeds("rollout", "status")) if line[0] == "database")
        assert "since" in database
        wait_until(lambda: service.log().count("is kept in memory") > 0, "the background cannot write either")
    wait_until(lambda: operator.json("rollout", "status")["database"] is None, "it is written")
    assert service.log().count("what is to be written is kept in memory") == 1
    wait_until(lambda: "etag" in service.client.get("/rollout").headers, "the rollback is written")


@contextmanager
def calling(service: Service, program: str, **inputs: str) -> Iterator[None]:
    """Calls the program, one call after the other, for as long as the block lasts."""
    is_over = Event()

    def call() -> None:
        while not is_over.wait(0.02):
            service.execute(program, inputs=inputs)

    with ThreadPoolExecutor(1) as threads:
        calls = threads.submit(call)
        try:
            yield
        finally:
            is_over.set()
        calls.result()


def test_a_rotation(operator: Poolshift) -> None:
    """Refused between 0 and 100 %, and without evidence; done by a word, and taken back; the history says so."""
    operator.succeeds("rollout", "set", 50)
    assert operator.fails(4, "rollout", "rotate").startswith("plan_conflict: V2 gets 50 %")
    operator.succeeds("rollout", "set", 0)
    assert "an admin may rotate all the same" in operator.fails(4, "rollout", "rotate", "--reason", "the next one")
    assert "needs a reason" in operator.fails(1, "rollout", "rotate", "--unproven")
    rotated = operator.json("rollout", "rotate", "--unproven", "--reason", "the next one")
    assert (rotated["canary_percent"], rotated["source"]) == (0, "rotation")
    assert rotated["reason"].startswith("unproven: the next one (")
    told = operator.succeeds("rollout", "unrotate", "--reason", "not yet")
    assert "unrotated: V1 is what it was before revision" in told
    assert operator.fails(4, "rollout", "unrotate").startswith("plan_conflict: the rotation of revision")


def test_the_migration(operator: Poolshift) -> None:
    """The phase and the next command; an item that a check finds cannot be ticked."""
    shown = operator.json("migration", "status")
    assert (shown["phase"], shown["next"]) == ("parallel", "poolshift migration validate")
    assert ["phase", "parallel"] in lines(operator.succeeds("migration", "status"))
    ticked = operator.succeeds("migration", "tick", "documentation", "--note", "runbook")
    assert ticked == "documentation: unknown, no validation has run\n"
    operator.succeeds("migration", "tick", "documentation", "--undo")
    assert operator.fails(1, "migration", "tick", "tests").startswith("not_found: 'tests' is found by a check")
    assert operator.fails(1, "migration", "report").startswith("not_found: no validation has run")
    advice = operator.json("migration", "tune")
    assert [one["pool"] for one in advice] == ["v1", "v2"]
