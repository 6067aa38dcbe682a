"""`PATCH /programs`: many programs become as they are described, all of them or none."""

import concurrent.futures
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.test_errors import problem
from tests.service.test_own_definitions import answers
from tests.service.test_program_changes import changed, definition
from tests.support.service import Service, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A small quota of bytes of definitions for each session."""
    directory = tmp_path_factory.mktemp("apply")
    with running_service(directory, QUOTA_DEFINITION_BYTES_PER_SESSION=20_000) as service:
        yield service


@pytest.fixture
def prefix() -> str:
    return f"p-{uuid.uuid4().hex}"


def apply(service: Service, *programs: dict[str, Any], query: str = "") -> Any:
    return service.client.patch(f"/programs{query}", json={"programs": list(programs)})


def shown(service: Service, *ids: str) -> list[Any]:
    return [service.client.get(f"/programs/{one}").json().get("revision") for one in ids]


def test_all_are_applied(service: Service, prefix: str) -> None:
    """In the order of the request, each with its result; a dry run before shows the same, and changes nothing."""
    a, b, c = (f"{prefix}-{name}" for name in "cab")
    changed(service, b, definition())
    changed(service, c, definition())
    bodies = [definition(id=a), definition("shout", id=b), definition(id=c)]
    dry = apply(service, *bodies, query="?dry_run=true").json()["items"]
    assert shown(service, a, b, c) == [None, 1, 1]
    done = apply(service, *bodies)
    assert done.status_code == 200, done.text
    items = done.json()["items"]
    assert [(one["result"], one["program"]["id"], one["program"]["revision"]) for one in items] == [
        ("created", a, 1),
        ("updated", b, 2),
        ("unchanged", c, 1),
    ]
    assert [one["program"]["revision"] for one in dry] == [1, 2, 1]
    assert {one["result"] for one in apply(service, *bodies).json()["items"]} == {"unchanged"}
    own = apply(service, definition("shout", id=a), definition(id=c), query="?pool_version=v2").json()["items"]
    assert [one["result"] for one in own] == ["created", "created"]
    assert answers(service, a) == ["a", "A"]


@pytest.mark.parametrize(
    ("wrong", "status", "code", "at"),
    [
        (definition("no_such_function"), 422, "invalid_request", "entrypoint"),
        (definition(inputs={"nonce": "text"}), 422, "invalid_request", "signature.inputs.0.type"),
        ({**definition(), "expected_revision": 7}, 412, "stale_revision", None),
        ({**definition(), "expected_revision": 0}, 412, "stale_revision", None),
        ({**definition("shout"), "instructions": "i" * 30_000, "session_id": "small"}, 429, "quota_exceeded", None),
        (definition(inputs={"nonce": "integer"}), 409, "incompatible_definition", None),
    ],
    ids=["no function", "malformed", "another revision", "not new", "quota", "V2 does not take it"],
)
def test_one_that_cannot_be_keeps_all_from_being_applied(
    service: Service, prefix: str, wrong: dict[str, Any], status: int, code: str, at: str | None
) -> None:
    """The problem is that of the first one, and says where it is in the body; nothing has changed."""
    first, second, last = (f"{prefix}-{number}" for number in range(3))
    changed(service, second, definition())
    changed(service, second, definition("shout"), "?pool_version=v2")
    refused = problem(apply(service, definition(id=first), {**wrong, "id": second}, definition(id=last)), status, code)
    place = "body.programs.1" + (f".{at}" if at else "")
    assert [one["at"] for one in refused["errors"]] == [place]
    assert shown(service, first, second, last) == [None, 1, None]
    assert service.client.get("/sessions/small").status_code == 404


def test_the_errors_of_all_are_told_at_once(service: Service, prefix: str) -> None:
    """Each with its code; a program that is there twice is one of them."""
    refused = problem(
        apply(
            service,
            definition("missing", id=f"{prefix}-a"),
            definition(id=f"{prefix}-b"),
            {**definition(id=f"{prefix}-c"), "expected_revision": 3},
            definition("shout", id=f"{prefix}-b"),
        ),
        422,
        "invalid_request",
    )
    assert [(one["at"], one["code"]) for one in refused["errors"]] == [
        ("body.programs.0.entrypoint", "invalid_request"),
        ("body.programs.2", "stale_revision"),
        ("body.programs.3.id", "invalid_request"),
    ]
    assert refused["detail"].startswith("nothing is changed: ")


def test_a_quota_that_all_together_are_over(service: Service, prefix: str) -> None:
    """Each one alone would fit: none is stored, and the place that they were to have is free again."""
    session = f"s-{prefix}"
    bodies = [definition("shout", id=f"{prefix}-{number}", instructions="i" * 8_000) for number in range(3)]
    for _ in range(2):
        problem(apply(service, *bodies, query=f"?session_id={session}"), 429, "quota_exceeded")
    assert service.client.get(f"/programs?session_id={session}").json()["items"] == []
    assert apply(service, *bodies[:2], query=f"?session_id={session}").status_code == 200


def test_two_requests_at_once_are_one_after_the_other(service: Service, prefix: str) -> None:
    """Whatever the order of their programs: afterwards all programs are those of one request."""
    ids = [f"{prefix}-{number}" for number in range(6)]
    for one in ids:
        changed(service, one, definition())

    def send(text: str) -> int:
        order = ids if text == "first" else ids[::-1]
        status: int = apply(service, *(definition(id=one, instructions=text) for one in order)).status_code
        return status

    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        assert set(callers.map(send, ["first", "second"])) == {200}
    assert len({service.client.get(f"/programs/{one}").json()["instructions"] for one in ids}) == 1


def test_the_body(service: Service) -> None:
    """At least one program, each with an id."""
    for programs in ([], [definition()], [{"id": "a"}]):
        problem(apply(service, *programs), 422, "invalid_request")
