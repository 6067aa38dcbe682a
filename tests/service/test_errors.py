"""Errors: each the same from both engines, each saying where, none reaching a worker as a crash."""

import socket
from typing import Any

import httpx
import pytest

from routing.catalog.texts import ID_RULE
from tests.conftest import StartService
from tests.support.service import Service

ECHO = {"nonce": "string"}
MEMBERS = {
    "type",
    "title",
    "status",
    "detail",
    "code",
    "category",
    "pool_version",
    "execution_id",
    "retry_safe",
}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The answer is a whole problem response with this status and code."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), body
    assert body.keys() >= MEMBERS
    return body


def crashes(service: Service) -> int:
    """Returns the number of workers that have crashed."""
    return sum(
        count
        for pool in service.client.get("/pools").json()
        for cause, count in pool["totals"]["worker_exits"].items()
        if cause in ("crash", "signal", "oom")
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"inputs": {}, "surprise": 1}', "surprise"),
        (b'{"session_id": "a"}', "inputs"),
        (b'{"inputs": {}, "session_id": "a/b"}', f"body: {ID_RULE} - at `$.session_id`"),
        (b'{"inputs": {}, "session_id": ""}', f"body: {ID_RULE} - at `$.session_id`"),
        (b'{"inputs": {}, "session_id": "a\\n"}', f"body: {ID_RULE} - at `$.session_id`"),
        (b'{"inputs": {}, "session_id": "a\\nb"}', f"body: {ID_RULE} - at `$.session_id`"),
        (b'{"inputs": {}, "session_id": 1}', "session_id"),
        (b'{"inputs": {}, "timeout_s": 0}', "timeout_s"),
        (b'{"inputs": {}, "timeout_s": "1"}', "timeout_s"),
        (b'{"inputs": {}, "timeout_s": -1}', "timeout_s"),
        (b"\xff\xfe", "body"),
        (b'{"inputs": {"nonce": "\xff"}}', "inputs"),
        (b'{"inputs": {"nonce": "a",}}', "body"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", ""),
    ],
)
def test_a_malformed_call_is_refused(shared_service: Service, content: bytes, says: str) -> None:
    """The answer is 422, names the place and has the usual headers; no worker dies."""
    before = crashes(shared_service)
    program = shared_service.create("echo", ECHO)
    answer = shared_service.client.post(f"/programs/{program}/execute", content=content)
    assert answer.status_code == 422
    assert answer.json()["code"] in ("invalid_request", "invalid_inputs")
    assert says in answer.json()["detail"]
    assert answer.json()["retry_safe"] is True
    assert {"x-pool-version", "x-execution-id", "server-timing"} <= set(answer.headers)
    assert shared_service.execute(program, inputs={"nonce": "on"}).json()["outputs"] == {"result": "on"}
    assert crashes(shared_service) == before


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "nonce"),
        ({"nonce": 1}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"nonce": "a", "more": 1}, "more"),
        ("text", None),
        ([], None),
        (None, None),
    ],
)
def test_inputs_that_do_not_fit(shared_service: Service, version: str, inputs: object, field: str | None) -> None:
    """They are refused before the program runs, and the field is named."""
    program = shared_service.create("echo", ECHO)
    body = problem(shared_service.execute(program, inputs=inputs), 422, "invalid_inputs")
    assert body.get("field") == field
    assert body["pool_version"] == version
    assert body["retry_safe"] is True


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "x", 1),
        ("integer", 3, 3.5),
        ("integer", 2**80, "3"),
        ("number", 3, "3"),
        ("number", 3.5, True),
        ("boolean", True, 1),
        ("array", [1, "a", None], {"a": 1}),
        ("object", {"a": [1]}, [1]),
    ],
)
def test_every_type_of_field(shared_service: Service, kind: str, good: object, bad: object) -> None:
    """A value of the type comes back unchanged; any other value is refused."""
    program = shared_service.create("echo", {"nonce": kind}, kind)
    assert shared_service.execute(program, inputs={"nonce": good}).json()["outputs"] == {"result": good}
    problem(shared_service.execute(program, inputs={"nonce": bad}), 422, "invalid_inputs")


def test_optional_inputs(shared_service: Service) -> None:
    """Absent or null, a default stands in; without one the function's own does."""
    fields = [
        {"name": "text", "type": "string"},
        {"name": "limit", "type": "integer", "required": False},
    ]
    body = {
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": {"inputs": fields, "outputs": [{"name": "keywords", "type": "array"}]},
    }
    without = shared_service.client.post("/programs", json=body).json()["id"]
    fields[1] = {"name": "limit", "type": "integer", "default": 1}
    with_default = shared_service.client.post("/programs", json=body).json()["id"]
    text = "one two three four five six seven"
    for inputs in ({"text": text}, {"text": text, "limit": None}):
        assert len(shared_service.execute(without, inputs=inputs).json()["outputs"]["keywords"]) == 5
        assert len(shared_service.execute(with_default, inputs=inputs).json()["outputs"]["keywords"]) == 1


@pytest.mark.parametrize("function", ["wrong_output", "not_json"])
def test_outputs_that_do_not_fit(shared_service: Service, function: str) -> None:
    """They are an error of the program, told as such."""
    program = shared_service.create(function, {}, "integer")
    body = problem(shared_service.execute(program), 500, "invalid_outputs")
    assert body["category"] == "program"
    assert body["retry_safe"] is False


def test_a_program_that_raises(shared_service: Service) -> None:
    """The caller gets type and message; the traceback is in the log alone."""
    program = shared_service.create("fail", {"message": "string"})
    answer = shared_service.execute(program, inputs={"message": "out of luck"})
    body = problem(answer, 500, "program_error")
    assert body["detail"] == "ValueError: out of luck"
    assert "Traceback" not in answer.text
    assert "programs.py" in shared_service.log()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entrypoint": "os:system"}, "entrypoint"),
        ({"entrypoint": "subprocess:run"}, "entrypoint"),
        ({"entrypoint": "examples"}, "entrypoint"),
        ({"entrypoint": "examples.text:_sentences"}, "private"),
        ({"entrypoint": "examples.text:nothing"}, "nothing"),
        ({"entrypoint": "examples.nothing:run"}, "nothing"),
        ({"entrypoint": "examples.text:re"}, "re"),
        ({"entrypoint": "examples_of_mine:run"}, "not allowed"),
        ({"entrypoint": "tests.support.programs:fork"}, "fork"),
        ({"entrypoint": None}, "entrypoint"),
        ({"program_type": "predict"}, "entrypoint"),
        ({"program_type": "shell"}, "program_type"),
        ({"id": "a b"}, f"body.id: {ID_RULE}; got 'a b'"),
        ({"id": "../etc"}, f"body.id: {ID_RULE}; got '../etc'"),
        ({"id": "ünïcode"}, f"body.id: {ID_RULE}; got 'ünïcode'"),
        ({"id": ""}, f"body.id: {ID_RULE}; got ''"),
        ({"id": "x" * 129}, "id"),
        ({"session_id": "a\u0000b"}, "session_id"),
        ({"session_id": "a\n"}, f"body.session_id: {ID_RULE}"),
        ({"surprise": 1}, "surprise"),
        ({"idempotent": "yes"}, "idempotent"),
        ({"signature": {"inputs": [], "outputs": []}}, "outputs"),
        ({"signature": {"inputs": [{"name": "text", "type": "text"}], "outputs": []}}, "type"),
        *(
            (
                {"signature": {"inputs": [], "outputs": [{"name": name, "type": "array"}]}},
                f"signature.outputs.0.name: {says}",
            )
            for name, says in (
                *((name, "the name of a field has no double quotes") for name in ('"', "\\", "a\n", "\x00")),
                *((name, "String should have") for name in ("", "x" * 129)),
            )
        ),
        (
            {"signature": {"inputs": [{"name": "txt", "type": "string"}], "outputs": [{"name": "k", "type": "array"}]}},
            "does not take the signature's inputs",
        ),
        (
            {
                "signature": {
                    "inputs": [{"name": "text", "type": "string", "default": 1}],
                    "outputs": [{"name": "k", "type": "array"}],
                }
            },
            "default",
        ),
        (
            {
                "signature": {
                    "inputs": [{"name": "text", "type": "string"}] * 2,
                    "outputs": [{"name": "k", "type": "array"}],
                }
            },
            "same name",
        ),
        *(
            (
                {"signature": {"inputs": [], "outputs": [{"name": "k", "type": kind, "schema": schema}]}},
                f"body.signature.outputs.0: no value fits both: the `type` is '{kind}', and the `schema` allows {says}",
            )
            for kind, schema, says in (
                ("string", {"type": "integer"}, "integer"),
                ("array", {"anyOf": [{"type": "object"}, {"type": "null"}]}, "null or object"),
                ("integer", {"$ref": "#/$defs/a", "$defs": {"a": {"enum": ["a", True]}}}, "boolean or string"),
            )
        ),
    ],
)
def test_a_program_that_makes_no_sense(shared_service: Service, change: dict[str, Any], says: str) -> None:
    """Creating the program is refused with the place of the mistake, and no worker dies."""
    before = crashes(shared_service)
    body: dict[str, Any] = {
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": {
            "inputs": [{"name": "text", "type": "string"}],
            "outputs": [{"name": "keywords", "type": "array"}],
        },
    }
    answer = shared_service.client.post("/programs", json={**body, **change})
    assert says in problem(answer, 422, "invalid_request")["detail"]
    assert crashes(shared_service) == before


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("NaN", "not finite"),
        ("1e999", "not finite"),
        ("-Infinity", "not finite"),
        (r'"\ud800"', "surrogate"),
        (r'{"\udfff": 1}', "surrogate"),
        ("[" * 700 + "]" * 700, ""),
    ],
)
@pytest.mark.parametrize("place", ["default", "state"])
def test_json_that_cannot_be_written(shared_service: Service, place: str, value: str, says: str) -> None:
    """Some would be stored as null, some not at all: it is refused, however deep it is."""
    typed = '"program_type": "python", "entrypoint": "examples.text:keywords"'
    given, more = f', "default": [[{value}]]', ""
    if place == "state":
        typed, given, more = '"program_type": "predict"', "", f', "state": {{"demos": [{value}]}}'
    content = (
        f'{{{typed}{more}, "signature": {{"inputs": [{{"name": "text", "type": "array"{given}}}],'
        ' "outputs": [{"name": "k", "type": "array"}]}}'
    )
    answer = shared_service.client.post(
        "/programs", content=content.encode(), headers={"content-type": "application/json"}
    )
    assert says in problem(answer, 422, "invalid_request")["detail"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"id": }', "line 1, column 8"),
        (b'{\n  "id": "a"\n }}', "line 3, column 3"),
        (b"[", "line 1, column 2"),
        (b'{"id": "a"} x', "line 1, column 13"),
    ],
)
def test_a_body_that_is_not_json(shared_service: Service, content: bytes, says: str) -> None:
    """The place is told as an editor counts it, and not as a member of the body."""
    answer = shared_service.client.post("/programs", content=content, headers={"content-type": "application/json"})
    refused = problem(answer, 422, "invalid_request")
    assert refused["detail"].startswith(f"body: not JSON at {says}: ")
    assert [error["at"] for error in refused["errors"]] == ["body"]


def test_an_id_is_unique_in_its_session(shared_service: Service, version: str) -> None:
    """The same id may be used in another session, and a session's own program comes before the global one."""
    name = f"shared-name-{version}"
    shared_service.create("echo", ECHO, id=name)
    taken = {
        "id": name,
        "program_type": "python",
        "entrypoint": "tests.support.programs:echo",
        "signature": {
            "inputs": [{"name": "nonce", "type": "string"}],
            "outputs": [{"name": "result", "type": "string"}],
        },
    }
    problem(shared_service.client.post("/programs", json=taken), 409, "program_exists")
    shared_service.create("whoami", {}, "object", id=name, session_id="own")
    problem(shared_service.client.post("/programs", json={**taken, "session_id": "own"}), 409, "program_exists")

    assert shared_service.execute(name, inputs={"nonce": "a"}, session_id="other").status_code == 200
    problem(shared_service.execute(name, inputs={"nonce": "a"}, session_id="own"), 422, "invalid_inputs")
    assert shared_service.execute(name, session_id="own").status_code == 200
    assert shared_service.client.get(f"/programs/{name}").json()["session_id"] is None
    assert shared_service.client.get(f"/programs/{name}", params={"session_id": "own"}).json()["session_id"] == "own"


@pytest.mark.parametrize(("content_type", "says"), [(None, "is missing"), ("text/plain", "is 'text/plain'")])
def test_a_body_of_another_content_type(shared_service: Service, content_type: str | None, says: str) -> None:
    """The answer names the content type as the fault, and no fault of the text."""
    headers = {} if content_type is None else {"content-type": content_type}
    for method, path in (("PATCH", "/rollout"), ("POST", "/programs"), ("PUT", "/lm")):
        answer = shared_service.client.request(method, path, content=b'{"model": "none"}', headers=headers)
        body = problem(answer, 422, "invalid_request")
        assert body["detail"] == f"the header content-type {says}; it must be application/json"
        assert body["errors"][0]["at"] == "content-type"


def test_what_is_no_http_gets_no_problem(shared_service: Service) -> None:
    """Nobody knows what such a client understands: it gets plain text, and the connection ends."""
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as sock:
        sock.sendall(b"NOT HTTP\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: text/plain" in answer
    assert answer.endswith(b"Invalid HTTP request received.")


@pytest.mark.parametrize("path", ["/programs", "/programs/any/execute"])
def test_an_announced_body_is_refused_before_it_comes(shared_service: Service, path: str) -> None:
    """Nobody has to send what is not going to be read."""
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        sock.sendall(f"{head}content-length: 60000000\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"payload_too_large" in answer


@pytest.mark.parametrize("path", ["/programs", "/programs/any/execute"])
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(shared_service: Service, path: str) -> None:
    """The service drops what it does not want: a connection that it reset would take the answer along."""
    with socket.create_connection(("127.0.0.1", shared_service.port), timeout=20) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        sock.sendall(f"{head}content-length: 30000000\r\n\r\n".encode())
        sock.sendall(bytes(30_000_000))
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")


def test_too_large_a_body(start_service: StartService) -> None:
    """Every endpoint answers 413, whether the request announces its length or not."""
    service = start_service(MAX_BODY_BYTES=2048)
    program = service.create("echo", ECHO)
    large = b'{"inputs": {"nonce": "' + b"x" * 4096 + b'"}}'

    def chunks() -> Any:
        yield large[:100]
        yield large[100:]

    for content in (large, chunks()):
        answer = service.client.post(f"/programs/{program}/execute", content=content)
        problem(answer, 413, "payload_too_large")
        assert "x-pool-version" in answer.headers
    for content in (large, chunks()):
        answer = service.client.post("/programs", content=content, headers={"content-type": "application/json"})
        problem(answer, 413, "payload_too_large")
    assert service.execute(program, inputs={"nonce": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("PUT", "/programs", 405, "method_not_allowed"),
        ("GET", "/programs/x/execute", 405, "method_not_allowed"),
        ("GET", "/programs/nothing", 404, "program_not_found"),
        ("DELETE", "/programs/nothing", 404, "program_not_found"),
        ("POST", "/programs/nothing/execute", 404, "program_not_found"),
        ("POST", "/programs/%2e%2e%2f/execute", 404, "program_not_found"),
        ("GET", "/sessions/nothing", 404, "session_not_found"),
        ("DELETE", "/sessions/nothing", 404, "session_not_found"),
        ("GET", "/programs?limit=0", 422, "invalid_request"),
        ("GET", "/programs?cursor=x", 422, "invalid_request"),
        ("GET", "/pools/v3", 422, "invalid_request"),
        ("GET", "/sessions/a%0A", 422, "invalid_request"),
        ("DELETE", "/sessions/a%0A", 422, "invalid_request"),
        ("GET", "/sessions/a%20b", 422, "invalid_request"),
    ],
)
def test_what_is_not_there(shared_service: Service, method: str, path: str, status: int, code: str) -> None:
    """Every other refusal is a problem response too."""
    json: dict[str, Any] | None = {"inputs": {}} if path.endswith("/execute") and method == "POST" else None
    problem(shared_service.client.request(method, path, json=json), status, code)


def test_a_signature_with_odd_names(shared_service: Service) -> None:
    """Any string can be a field's name: the function takes it among its keyword arguments."""
    program = shared_service.create(
        "keyword_count", {"my-field": "string", "class": "string", "f0": "string"}, "integer"
    )
    inputs = {"my-field": "a", "class": "b", "f0": "c"}
    assert shared_service.execute(program, inputs=inputs).json()["outputs"] == {"result": 3}


def test_an_async_function_and_a_generator(shared_service: Service) -> None:
    """Both are programs like any other."""
    program = shared_service.create("async_echo", ECHO)
    assert shared_service.execute(program, inputs={"nonce": "a"}).json()["outputs"] == {"result": "a"}
    program = shared_service.create("steps", {"count": "integer"}, "integer")
    assert shared_service.execute(program, inputs={"count": 3}).json()["outputs"] == {"result": 3}
