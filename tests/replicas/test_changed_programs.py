"""A program that changes on one of three servers changes on all of them, and is missing on none meanwhile."""

import concurrent.futures
from typing import Any

import httpx
import pytest

from tests.replicas.conftest import Postgres
from tests.replicas.test_replicas import replicas, steady_load
from tests.service.test_program_changes import changed, definition, put
from tests.support.service import Service
from tests.support.waiting import wait_until

__all__ = ["replicas"]
SPREAD_S = 1.0
"""The promise: so many seconds after the answer, every replica runs the new definition."""


def told(instructions: str) -> dict[str, Any]:
    """A definition that fits each call of `steady_load` and differs from the others by this text."""
    return definition(instructions=instructions)


def kind(service: Service) -> str:
    """The definition that a call runs there: one of them takes a number, the other one text."""
    return "text" if service.execute("q", inputs={"nonce": "a"}).status_code == 200 else "number"


@pytest.mark.timing
def test_a_change_is_everywhere_within_a_second(replicas: list[Service]) -> None:
    """Whichever replica makes it; under load no call is answered anything but 200."""
    changed(replicas[0], "p", told("0"))
    with steady_load(replicas, "p") as statuses:
        for round_ in range(6):
            service = replicas[round_ % 3]
            other = definition(inputs={"nonce": "integer" if round_ % 2 else "string"})
            changed(service, "p", told(str(round_ + 1)))
            changed(service, "q", other)
            expected = "number" if round_ % 2 else "text"
            wait_until(
                lambda expected=expected: [kind(one) for one in replicas] == [expected] * 3,  # type: ignore[misc]
                f"round {round_}: every replica runs the new definition",
                SPREAD_S,
            )
        calls = len(statuses)
        wait_until(lambda: len(statuses) > calls + 50, "calls go on")
    assert set(statuses) == {200}
    shown = [replica.client.get("/programs/p").json() for replica in replicas]
    assert {one["revision"] for one in shown} == {7}
    wait_until(
        lambda: replicas[0].client.get("/programs/p").json()["execution_count"] == len(statuses),
        "every replica has flushed its counts",
    )


def test_of_changes_on_several_replicas_one_wins(replicas: list[Service]) -> None:
    """With one revision in If-Match, or with If-None-Match; the others get 412 and the revision in force."""
    for headers in ({"if_none_match": "*"}, {"if_match": '"1"'}):

        def change(numbered: tuple[int, Service], headers: dict[str, str] = headers) -> httpx.Response:
            number, service = numbered
            return put(service, "p", told(f"{headers} {number}"), **headers)

        with concurrent.futures.ThreadPoolExecutor(3) as writers:
            answers = list(writers.map(change, enumerate(replicas)))
        assert sorted(answer.status_code for answer in answers)[1:] == [412, 412]
        (won,) = [answer for answer in answers if answer.is_success]
        wait_until(
            lambda won=won: all(  # type: ignore[misc]
                replica.client.get("/programs/p").json()["revision"] == won.json()["revision"] for replica in replicas
            ),
            "every replica shows the change that won",
        )
    revisions = [replica.client.get("/programs/p/revisions").json() for replica in replicas]
    assert [one["revision"] for one in revisions[0]["items"]] == [2, 1]
    assert revisions[0] == revisions[1] == revisions[2]


def test_without_the_database_a_change_is_refused(replicas: list[Service], postgres: Postgres) -> None:
    """503, and nothing has changed: calls run the definition that was there, before and after the outage."""
    body = definition()
    changed(replicas[0], "p", body)
    for replica in replicas:
        assert replica.execute("p", inputs={"nonce": "a"}).status_code == 200
    postgres.stop()
    answer = put(replicas[1], "p", definition(inputs={"nonce": "integer"}))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    for replica in replicas:
        assert replica.execute("p", inputs={"nonce": "a"}).status_code == 200
    postgres.start()
    wait_until(lambda: put(replicas[1], "p", body).status_code == 200, "the database is back")
    assert replicas[2].client.get("/programs/p").json()["revision"] == 1


def test_v2s_own_definition_is_followed(replicas: list[Service]) -> None:
    """Given, promoted, given again and taken back on one replica; each change is one of a later revision everywhere."""
    query = "?pool_version=v2"
    changed(replicas[0], "own", definition())

    def follows(expected: list[str]) -> None:
        def is_so() -> bool:
            return all(
                one.execute("own", {"X-Pool-Version": version}, inputs={"nonce": "a"}).json()["outputs"]["result"]
                == result
                for one in replicas
                for version, result in zip(("v1", "v2"), expected, strict=True)
            )

        wait_until(is_so, f"each replica answers {expected}")

    changed(replicas[0], "own", definition("shout"), query)
    follows(["a", "A"])
    assert replicas[1].client.post("/programs/own/promote", json={"force": True, "reason": "sure"}).status_code == 200
    follows(["A", "A"])
    assert changed(replicas[2], "own", definition(), query)["revision"] == 3
    follows(["A", "a"])
    assert replicas[1].client.delete(f"/programs/own{query}").status_code == 204
    follows(["A", "A"])


def test_deletions_and_their_way_back_are_followed(replicas: list[Service]) -> None:
    """All replicas miss a deleted program, and have it back, with V2's own definition, once one has restored it."""
    changed(replicas[0], "back", definition())
    changed(replicas[0], "back", definition("shout"), "?pool_version=v2")

    def follow(status: int) -> None:
        for one in replicas:
            wait_until(
                lambda one=one: one.execute("back", inputs={"nonce": "a"}).status_code == status,  # type: ignore[misc]
                f"each replica answers {status}",
            )

    follow(200)
    assert replicas[1].client.delete("/programs/back").status_code == 204
    follow(404)
    restored = replicas[2].client.post("/programs/back/restore").json()
    assert (restored["revision"], restored["v2"]["revision"]) == (1, 1)
    follow(200)
    assert replicas[0].client.post("/programs/back/promote", json={"force": True, "reason": "sure"}).is_success
    assert replicas[1].client.post("/programs/back/demote").json()["v2"]["revision"] == 3
    bodies = [definition(id="back"), definition("shout", id="new-together")]
    applied = replicas[2].client.patch("/programs", json={"programs": bodies})
    assert [one["result"] for one in applied.json()["items"]] == ["unchanged", "created"]
