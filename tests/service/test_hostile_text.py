"""Text from clients: whatever it is and wherever it stands, it is never a fault of the service or of its database."""

from collections.abc import Iterator

import pytest

from tests.support import hostile
from tests.support.hostile import BODIES, BODY_TEXTS, DOCUMENT, FREE, NUL, OPERATIONS, TEXTS
from tests.support.service import Service, running_service


def check_parameters(service: Service, method: str, path: str, text: str) -> None:
    """No parameter of an operation that is `text` gives a 5xx; each that is text itself refuses a NUL by name."""
    for parameter in hostile.parameters(method, path):
        made = hostile.request(method, path, parameter["name"], text)
        if made is None:
            continue
        answer = hostile.send(service.client, method, *made, body=next(iter(BODIES.get((method, path), [])), None))
        said = f"{method} {path} {parameter['name']}={text[:9]!r}: {answer.text}"
        assert answer.status_code < 500, said
        if NUL in text and hostile.takes_text(parameter):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), said
            assert parameter["name"] in answer.json()["detail"], said


def check_bodies(service: Service, method: str, path: str, text: str) -> None:
    """No member of a body that is `text`, or is called so, gives a 5xx; a NUL is refused by the member's place."""
    for place, body in hostile.bodies(method, path, text):
        made = hostile.request(method, path)
        assert made is not None
        answer = hostile.send(service.client, method, *made, body=body)
        said = f"{method} {path} {place}={text[:9]!r}: {answer.text}"
        assert answer.status_code < 500, said
        if NUL in text and not FREE.intersection(place) and not path.endswith(("/execute", "/batch")):
            code = code_of(path)
            assert (answer.status_code, answer.json()["code"]) == (422, code), said
            named = (
                answer.json()["detail"] if path == "/rollout/plan" else answer.json().get("errors", [{}])[0].get("at")
            )
            assert place == ["surprise"] or str(place[-1]) in named, said


def code_of(path: str) -> str:
    """A plan's errors have a code of their own, since a file may hold the plan too."""
    return "invalid_plan" if path == "/rollout/plan" else "invalid_request"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for both versions: none of this text reaches a pool."""
    with running_service(tmp_path_factory.mktemp("hostile")) as service:
        yield service


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_text_is_a_fault_of_the_service(service: Service, method: str, path: str) -> None:
    """Every parameter and every member of every body in the OpenAPI document, each with every text."""
    for text in TEXTS.values():
        check_parameters(service, method, path, text)
    tries_to_load = path in ("/programs", "/programs/{program_id}")
    for text in BODY_TEXTS.values() if tries_to_load else TEXTS.values():
        check_bodies(service, method, path, text)


def test_every_operation_with_a_body_is_tried() -> None:
    """A body that nobody has put into the table would not be tried with any text."""
    with_body = {(method, path) for method, path in OPERATIONS if "requestBody" in DOCUMENT["paths"][path][method]}
    assert with_body == BODIES.keys()


@pytest.mark.parametrize("digits", [1, 9, 10, 11, 4_300, 4_301, 5_000])
@pytest.mark.parametrize("form", ["{}", '"{}"', 'W/"{}"'])
def test_a_revision_of_any_length_is_stale(service: Service, digits: int, form: str) -> None:
    """`If-Match` is a number that was never a revision, however long: 412, as for any other stale one."""
    headers = {"if-match": form.format("9" * digits)}
    answer = service.client.patch("/rollout", json={"canary_percent": 0}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (412, "stale_revision")


@pytest.mark.parametrize("digits", [4_300, 4_301, 100_000])
@pytest.mark.parametrize(("method", "path"), BODIES)
def test_a_number_of_any_length_in_a_body(service: Service, method: str, path: str, digits: int) -> None:
    """Python refuses to convert a long one; that is the request's fault."""
    made = hostile.request(method, path)
    assert made is not None
    url, headers = made
    content = b'{"surprise": ' + b"9" * digits + b"}"
    sent = {**headers, b"content-type": b"application/json"}
    answer = service.client.request(method.upper(), url, content=content, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (422, code_of(path))
