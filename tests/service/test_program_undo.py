"""Deletions, changes and promotions of programs, and the way back from each, on a real service."""

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.service.test_errors import problem
from tests.service.test_own_definitions import FORCED, V2, answers
from tests.service.test_program_changes import changed, definition, put
from tests.support.ramps import PLAN
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

SESSIONS = [None, "a-session"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Both pools, and all calls on V1."""
    with running_service(tmp_path_factory.mktemp("undo")) as service:
        yield service


@pytest.fixture
def program() -> str:
    return f"p-{uuid.uuid4().hex}"


def restore(service: Service, program: str, query: str = "", **body: Any) -> Any:
    answer = service.client.post(f"/programs/{program}/restore{query}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["etag"] == f'"{answer.json()["revision"]}"'
    return answer.json()


def revisions(service: Service, program: str, query: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.client.get(f"/programs/{program}/revisions{query}").json()["items"]
    return items


@pytest.mark.parametrize("session", SESSIONS)
def test_a_deleted_program_comes_back(service: Service, program: str, session: str | None) -> None:
    """As it was: definition, revisions, V2's own, counts and creation; also at another revision, as a new one."""
    query = "" if session is None else f"?session_id={session}"
    of_v2 = query.replace("?", "&")
    body: dict[str, Any] = {} if session is None else {"session_id": session}
    changed(service, program, definition(instructions="first"), query)
    changed(service, program, definition("shout", instructions="second"), query)
    changed(service, program, definition("shout", instructions="V2's"), V2 + of_v2)
    assert service.execute(program, inputs={"nonce": "a"}, **body).status_code == 200
    before = service.client.get(f"/programs/{program}{query}").json()
    former = revisions(service, program, query)
    for revision in (None, 1):
        assert service.client.delete(f"/programs/{program}{query}").status_code == 204
        problem(service.execute(program, inputs={"nonce": "a"}, **body), 404, "program_not_found")
        problem(service.client.get(f"/programs/{program}{query}"), 404, "program_not_found")
        restored = restore(service, program, query, revision=revision)
        if revision is None:
            assert restored == before
            assert revisions(service, program, query) == former
    assert (restored["revision"], restored["instructions"], restored["v2"]) == (3, "first", before["v2"])
    assert [one["revision"] for one in revisions(service, program, query)] == [3, 2, 1]
    assert answers(service, program, **body) == ["a", "A"]


def deletions(service: Service, program: str, query: str = "") -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.client.get(f"/programs/{program}/deletions{query}").json()["items"]
    return items


def test_one_of_its_id_is_in_the_way(service: Service, program: str) -> None:
    """The answer names the number by which the old one comes back once the new one is deleted; nothing is lost."""
    assert deletions(service, program) == []
    changed(service, program, definition(instructions="old"))
    nothing = problem(service.client.post(f"/programs/{program}/restore"), 409, "program_exists")
    assert "nothing of this id to restore" in nothing["detail"]
    service.client.delete(f"/programs/{program}")
    changed(service, program, definition(instructions="new"))
    changed(service, program, definition(instructions="newer"))
    (old,) = deletions(service, program)
    number = old["deletion"]
    for body in ({}, {"deletion": number}, {"deletion": number, "revision": 1}):
        taken = problem(service.client.post(f"/programs/{program}/restore", json=body), 409, "program_exists")
        assert f"(`--deletion {number}`)" in taken["detail"]
    assert service.client.get(f"/programs/{program}").json()["instructions"] == "newer"
    service.client.delete(f"/programs/{program}")
    assert [one["revision"] for one in deletions(service, program)] == [2, 1]
    assert restore(service, program, deletion=number)["instructions"] == "old"
    (newer,) = deletions(service, program)
    problem(service.client.post(f"/programs/{program}/restore", json={"deletion": number}), 409, "program_exists")
    service.client.delete(f"/programs/{program}")
    assert restore(service, program, deletion=newer["deletion"], revision=1)["instructions"] == "new"


def test_deletions_are_listed(service: Service, program: str) -> None:
    """The newest first and page by page, with the time until which each can be restored; a session's are its own."""
    query = f"?session_id=s-{program}"
    for _ in range(3):
        changed(service, program, definition())
        changed(service, program, definition(), query)
        for where in ("", query):
            assert service.client.delete(f"/programs/{program}{where}").status_code == 204
    for where, session in (("", None), (query, f"s-{program}")):
        listed = deletions(service, program, where)
        assert [one["session_id"] for one in listed] == [session] * 3
        page = f"/programs/{program}/deletions{where or '?'}&limit=2"
        first = service.client.get(page).json()
        rest = service.client.get(f"{page}&cursor={first['next_cursor']}").json()
        assert (first["items"] + rest["items"], rest["next_cursor"]) == (listed, None)
        at, until = (datetime.fromisoformat(listed[0][name]) for name in ("deleted_at", "until"))
        assert until - at == timedelta(days=7)
    refused = service.client.post(f"/programs/{program}/restore", json={"deletion": listed[0]["deletion"]})
    assert "no deletion" in problem(refused, 404, "program_not_found")["detail"]


def test_a_program_goes_back_to_a_revision(service: Service, program: str) -> None:
    """As a change, which is tried and is a revision; one that is not kept, or was never there, is 404."""
    changed(service, program, definition(instructions="first"))
    changed(service, program, definition("shout"))
    back = restore(service, program, revision=1, reason="shouting")
    assert (back["revision"], back["instructions"]) == (3, "first")
    assert restore(service, program, revision=3) == back
    missing = problem(
        service.client.post(f"/programs/{program}/restore", json={"revision": 9}), 404, "program_not_found"
    )
    assert "no revision 9" in missing["detail"]
    problem(service.client.post("/programs/never-there/restore"), 404, "program_not_found")
    problem(service.client.post(f"/programs/{program}/restore", json={"revision": 0}), 422, "invalid_request")
    assert "reason=shouting" in service.log()


@pytest.mark.parametrize("query", ["", V2])
def test_each_revision_is_put_back_as_it_was_read(service: Service, program: str, query: str) -> None:
    """Whatever a definition has: limits, tools, a derived signature, a metric with its range, DSPy's string form."""
    signature = {
        "inputs": [
            {"name": "nonce", "schema": {"enum": ["a", "b"]}, "secret": True, "required": False},
            {"name": "n", "type": "integer", "default": 3},
        ],
        "outputs": [{"name": "result", "type": "string", "compare": {"text": 0.5}, "required": False}],
    }
    bodies = [
        {"program_type": "python", "entrypoint": "examples.text:keywords", "shared": True},
        {
            **definition(),
            "timeout_s": 2.5,
            "max_concurrency": 3,
            "memory_mb": 512,
            "idempotent": True,
            "metric": "examples.ticket_metric:is_useful",
            "metric_range": [0, 5],
            "shadow": True,
        },
        {"program_type": "predict", "signature": signature, "instructions": "i"},
        {"program_type": "predict", "signature": "question -> answer: float"},
        {"program_type": "react", "signature": signature, "tools": ["examples.text:word_count"]},
    ]
    for number, body in enumerate(bodies):
        one = f"{program}-{number}"
        changed(service, one, body)
        wanted = changed(service, one, {**body, "idempotent": False, "shadow": False}, query)
        (newest, *_) = revisions(service, one, query)
        unchanged = changed(service, one, newest["definition"], query)
        for volatile in ("created_at", "v2"):
            assert {**unchanged, volatile: None}.keys() == wanted.keys()
        assert unchanged == wanted, body
        newest["definition"]["idempotent"] = True
        assert changed(service, one, newest["definition"], query)["revision"] == wanted["revision"] + 1


def test_a_session_without_the_program_deletes_nothing(service: Service, program: str) -> None:
    """The answer names the global program, also the second time, as a retry would ask; V2's own stays as well."""
    changed(service, program, definition())
    changed(service, program, definition("shout"), V2)
    query = "?session_id=retried"
    changed(service, program, definition(), query)
    assert service.client.delete(f"/programs/{program}{query}").status_code == 204
    for query in ("?session_id=retried", "?session_id=never-there", f"{V2}&session_id=retried"):
        refused = problem(service.client.delete(f"/programs/{program}{query}"), 404, "program_not_found")
        assert "the global program of this id" in refused["detail"]
    for way in ("promote", "demote"):
        answer = service.client.post(f"/programs/{program}/{way}?session_id=retried", json={"reason": "r"})
        assert "the global program of this id" in problem(answer, 404, "program_not_found")["detail"]
    assert answers(service, program) == ["a", "A"]
    assert restore(service, program, "?session_id=retried")["session_id"] == "retried"


def test_a_promotion_is_undone(service: Service, program: str) -> None:
    """V1 has its former definition again, V2 the promoted one on trial; not twice, and not after another change."""
    changed(service, program, definition(instructions="V1's"))
    changed(service, program, definition("shout"), V2)
    demote = f"/programs/{program}/demote"
    problem(service.client.post(demote), 409, "rollback_impossible")
    assert service.client.post(f"/programs/{program}/promote", json=FORCED).is_success
    assert answers(service, program) == ["A", "A"]
    back = service.client.post(demote, json={"reason": "it shouts"})
    assert (back.status_code, back.json()["revision"], back.json()["instructions"]) == (200, 3, "V1's")
    assert back.json()["v2"]["entrypoint"] == "tests.support.programs:shout"
    assert answers(service, program) == ["a", "A"]
    problem(service.client.post(demote), 409, "rollback_impossible")
    assert service.client.post(f"/programs/{program}/promote", json=FORCED).is_success
    changed(service, program, definition("async_echo"), V2)
    assert "take that back" in problem(service.client.post(demote), 409, "rollback_impossible")["detail"]
    service.client.delete(f"/programs/{program}{V2}")
    changed(service, program, definition("async_echo"))
    problem(service.client.post(demote), 409, "rollback_impossible")


def test_promoting_what_v2_has_not_run_for_all_takes_force(tmp_path: Path) -> None:
    """At less than 100 %, and while a plan is under way, whatever its state; `force` needs a reason."""
    with running_service(tmp_path, CANARY_PERCENT=1) as service:
        changed(service, "p", definition())
        changed(service, "p", definition("shout"), V2)
        promote = "/programs/p/promote"

        def refused(why: str) -> None:
            assert why in problem(service.client.post(promote), 409, "plan_conflict")["detail"]
            for body in ({"force": True}, {"force": True, "reason": " "}):
                unnamed = problem(service.client.post(promote, json=body), 422, "invalid_request")
                assert [one["at"] for one in unnamed["errors"]] == ["body.reason"]

        refused("1 %")
        plan = {"steps": [{**PLAN["steps"][0], "percent": 50, "hold_s": 3600}]}
        assert service.client.put("/rollout/plan", json=plan).is_success
        for verb in ("start", "pause"):
            assert service.client.post(f"/rollout/{verb}").is_success
            refused("a plan is under way")
        assert service.execute("p", {"X-Pool-Version": "v1"}, inputs={"nonce": "a"}).status_code == 200
        assert service.client.post("/rollout/abort").is_success
        assert service.client.patch("/rollout", json={"canary_percent": 99.99}).is_success
        refused("99.99 %")
        assert service.client.patch("/rollout", json={"canary_percent": 100}).is_success
        assert service.client.post(promote).is_success


def kept(directory: Path) -> int:
    """The former definitions in the database."""
    with closing(sqlite3.connect(f"file:{directory / 'poolshift.db'}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM program_revisions").fetchone()
        return int(count)


def test_the_grace_period_ends(tmp_path: Path) -> None:
    """A sweep forgets the program with its revisions; without a grace period a deletion is final at once."""
    with running_service(tmp_path, PROGRAM_GRACE_S=2) as service:
        for name in ("kept", "gone"):
            changed(service, name, definition(instructions="first"))
            changed(service, name, definition())
        service.client.delete("/programs/kept")
        assert restore(service, "kept")["revision"] == 2
        service.client.delete("/programs/gone")
        wait_until(lambda: kept(tmp_path) == 1, "the deletion of the program is final")
        service.stop()
        service.start()
        assert [one["revision"] for one in revisions(service, "kept")] == [2, 1]
        problem(service.client.post("/programs/gone/restore"), 404, "program_not_found")
    final = tmp_path / "final"
    final.mkdir()
    with running_service(final, PROGRAM_GRACE_S=0) as service:
        changed(service, "p", definition())
        service.client.delete("/programs/p")
        problem(service.client.post("/programs/p/restore"), 404, "program_not_found")


def test_a_restart_brings_nothing_back_and_loses_nothing(tmp_path: Path) -> None:
    """A deleted program is still deleted after it, and can still be restored, with V2's former definitions."""
    with running_service(tmp_path) as service:
        changed(service, "p", definition())
        for text in ("one", "two"):
            changed(service, "p", definition("shout", instructions=text), V2)
        service.client.delete("/programs/p")
        service.stop()
        service.start()
        problem(service.client.get("/programs/p"), 404, "program_not_found")
        assert restore(service, "p")["v2"]["instructions"] == "two"
        assert [one["revision"] for one in revisions(service, "p", V2)] == [2, 1]
        assert answers(service, "p") == ["a", "A"]
        put(service, "p", definition())
