"""The OpenAPI document: FastAPI's own, with every error of each operation, and an example of each body.

An operation names the codes of its problems by `raises`. Those that follow from its parts are added here, such as
`unauthorized`. The member `x-problems` of an operation has all of them.
"""

from collections.abc import Iterator
from typing import Any

from app.access.hosts import EXEMPT_PATHS
from app.openapi.examples import add_examples
from app.openapi.field_notes import note_of
from app.problem_kinds import KINDS, Kind
from app.problems import CONTENT_TYPE, Problem

Document = dict[str, Any]

TAGS = {
    "programs": "Programs: their definitions, and running them",
    "executions": "Jobs: executions in the background",
    "sessions": "Sessions: the programs and settings of one client",
    "lm": "The language model that DSPy programs run on",
    "rollout": "The flag, the plan that moves it, and the evidence",
    "pools": "The pools and their workers",
    "shadow": "Copies of V1's calls on V2, and the comparison of their outputs",
    "migration": "The phase of the migration from V1 to V2, and its checklist",
    "health": "For orchestrators and Prometheus, without a key",
}

EXECUTION_HEADERS = ("X-Pool-Version", "X-Execution-Id", "Server-Timing")
"""Every answer to an execution has these, errors too."""
V1_HEADERS = ("Deprecation", "Sunset")
"""V1's answers to executions have these once `V1_SUNSET` announces its end."""

_HEADERS = {
    "Deprecation": ("The time since which V1 is deprecated, if its end is announced", "@1764000000"),
    "Sunset": ("The time at which V1 ends, if it is announced", "Thu, 31 Dec 2026 00:00:00 GMT"),
    "ETag": ("The revision, for `If-Match`", '"1"'),
    "Location": ("The address of what was created", "/programs/keywords"),
    "Preference-Applied": ("The preference of `Prefer` that was followed", "respond-async"),
    "Retry-After": ("Seconds to wait before the next try", "1"),
    "Server-Timing": ("Milliseconds in the queue and on a worker", "queue;dur=0.1, run;dur=12.5"),
    "WWW-Authenticate": ("The scheme by which a key is sent", "Bearer"),
    "X-Execution-Id": ("The id of the execution", "63f3ad26d4119c0e8a1f27b05d6e43c2"),
    "X-Pool-Version": ("The version that ran the execution, or would have", "v2"),
}
_PROBLEM_SCHEMA = {"$ref": "#/components/schemas/ProblemView"}
_CODES = "x-problems"
_COMMON_HEADERS = "x-response-headers"
_METHODS = frozenset({"get", "put", "post", "patch", "delete"})


def raises(*codes: str, headers: tuple[str, ...] = ()) -> Document:
    """Names the problems that an operation answers, for `openapi_extra`; `headers` are those of all its answers."""
    return {_CODES: list(codes), _COMMON_HEADERS: list(headers)}


def header(name: str) -> Document:
    """Refers to the description of a response header."""
    return {"$ref": f"#/components/headers/{name}"}


def complete(document: Document, schemas: Document) -> Document:
    """Completes FastAPI's document, to which `schemas` are added, and returns it."""
    components = document["components"]
    components["schemas"] |= schemas
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["headers"] = {
        name: {"description": description, "schema": {"type": "string"}, "example": example}
        for name, (description, example) in _HEADERS.items()
    }
    for name, schema in components["schemas"].items():
        _describe(name, schema)
    for path, operation in operations(document):
        operation["summary"] = _summary(operation["operationId"])
        for parameter in operation.get("parameters", ()):
            _describe_parameter(parameter)
        _add_problems(path, operation)
    used = {code for _, operation in operations(document) for code in operation[_CODES]}
    components["examples"] = {
        code: {"summary": KINDS[code].title, "value": _problem(code)} for code in KINDS if code in used
    }
    document["tags"] = [{"name": name, "description": description} for name, description in TAGS.items()]
    add_examples(document)
    return document


def operations(document: Document) -> Iterator[tuple[str, Document]]:
    """Yields each operation with its path."""
    for path, item in document["paths"].items():
        yield from ((path, operation) for method, operation in item.items() if method in _METHODS)


def _describe(model: str, schema: Document) -> None:
    """Gives a model and each of its fields a description, and a field an example if it has none."""
    if "description" not in schema and (note := note_of("", model.partition("_")[0])):
        schema["description"] = note.description
    for name, field in schema.get("properties", {}).items():
        for kind in (field, *field.get("anyOf", ())):
            if "prefixItems" in kind:
                kind.setdefault("items", {})  # linters ask for it
        if (note := note_of(model, name)) is None:
            continue
        field.setdefault("description", note.description)
        is_free = not {"examples", "default", "const", "enum"} & field.keys()
        if is_free and note.example is not None and _is_of_type(note.example, field):
            field["examples"] = [note.example]


_TYPES: dict[type, tuple[str, ...]] = {
    str: ("string",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    list: ("array",),
    dict: ("object",),
}


def _is_of_type(value: Any, schema: Document) -> bool:
    """Tells if a value may be an example of a schema, by its type: fields of one name may differ in theirs.

    A field that refers to a model or an enumeration has the examples of that.
    """
    kinds = (schema, *schema.get("anyOf", ()))
    types = {one["type"] for one in kinds if "type" in one}
    return not any("$ref" in one for one in kinds) and (not types or not types.isdisjoint(_TYPES[type(value)]))


def _summary(operation_id: str) -> str:
    return operation_id.replace("_", " ").capitalize().replace(" lm", " LM")


def _describe_parameter(parameter: Document) -> None:
    """Describes a parameter, and makes an optional one of its type: neither a header nor a query can be null."""
    if "description" not in parameter and (note := note_of("", parameter["name"])):
        parameter["description"] = note.description
    schema = parameter["schema"]
    if len(kinds := [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]) == 1:
        del schema["anyOf"]
        schema |= kinds[0]


def _add_problems(path: str, operation: Document) -> None:
    """Lists each error by its status, with its codes."""
    codes = operation[_CODES] = sorted({*operation.get(_CODES, ()), *_implied(path, operation)}, key=list(KINDS).index)
    common = {name: header(name) for name in operation.pop(_COMMON_HEADERS, ())}
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own form of it
    for status in {KINDS[code].status for code in codes}:
        of_status = {code: KINDS[code] for code in codes if KINDS[code].status == status}
        _add_status(responses.setdefault(str(status), {"description": _description(of_status)}), of_status)
    for response in responses.values():
        response["headers"] = {**response.get("headers", {}), **common}
        if not response["headers"]:
            del response["headers"]
    operation["responses"] = dict(sorted(responses.items()))


def _add_status(response: Document, kinds: dict[str, Kind]) -> None:
    """Adds the problems of one status to its response."""
    headers = dict.fromkeys(name for kind in kinds.values() for name in kind.headers if name in _HEADERS)
    response.setdefault("headers", {}).update({name: header(name) for name in headers})
    response.setdefault("content", {})[CONTENT_TYPE] = {
        "schema": _PROBLEM_SCHEMA,
        "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in kinds},
    }


def _implied(path: str, operation: Document) -> Iterator[str]:
    """Yields the codes that follow from an operation's parts."""
    yield "internal_error"
    if path not in EXEMPT_PATHS:
        yield "forbidden_host"
    if operation.get("security"):
        yield from ("unauthorized", "forbidden")
    if operation.get("parameters"):
        yield "invalid_request"
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
        yield "not_found"
    if "requestBody" in operation:
        yield from ("invalid_request", "payload_too_large")


def _description(kinds: dict[str, Kind]) -> str:
    return "; ".join(f"`{code}`: {kind.title}" for code, kind in kinds.items())


def _problem(code: str) -> Document:
    """Makes an example of a problem."""
    kind = KINDS[code]
    return Problem(code, kind.title, kind.retry_safe).members()
