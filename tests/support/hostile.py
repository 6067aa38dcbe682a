"""Text that a client may send to trip the service or its database, put into every parameter and body there is."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any
from urllib.parse import quote

import httpx

from tests.support.documented import document

NUL = "\0"
TEXTS = {
    "NUL": NUL,
    "NUL within": f"a{NUL}b",
    "half a surrogate pair": "\ud800",
    "half a surrogate pair within": "a\udc00b",
    "5,000 digits": "9" * 5000,
    "a negative number": "-1",
    "one more than a key": str(2**63),
    "a long name": "x" * 5000,
    "a line break": "a\nb",
    "a quote": '"',
    "other letters": "Ünï\u202ecode \U0001f600",
    "a backslash": "\\u0000",
    "a path": "../../etc/passwd",
}
DOCUMENT: dict[str, Any] = document()
BODY_TEXTS = {name: TEXTS[name] for name in ("NUL", "half a surrogate pair", "NUL within")}
"""Texts for the bodies with a program's definition, each of which starts a process."""
METHODS = ("get", "put", "post", "patch", "delete")
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in METHODS if method in item]

FIELD = {"name": "text", "type": "string", "description": "d"}
SIGNATURE = {
    "name": "n",
    "description": "d",
    "inputs": [{**FIELD, "default": "d"}],
    "outputs": [{"name": "keywords", "type": "array"}],
}
LM = {"model": "openai/test", "api_base": "http://127.0.0.1:9/v1", "api_key": "sk-test"}
RAMP_VERBS = ("start", "pause", "resume", "approve", "promote", "abort")
BODIES: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("post", "/programs"): [
        {
            "id": "hostile",
            "program_type": "python",
            "signature": SIGNATURE,
            "entrypoint": "examples.text:keywords",
            "instructions": "i",
            "session_id": "hostile",
        },
        {"program_type": "react", "signature": SIGNATURE, "tools": ["examples.text:keywords"], "state": {"a": "b"}},
    ],
    ("put", "/programs/{program_id}"): [
        {
            "program_type": "python",
            "signature": SIGNATURE,
            "entrypoint": "examples.text:keywords",
            "instructions": "i",
        }
    ],
    ("patch", "/programs"): [
        {
            "programs": [
                {
                    "id": "hostile",
                    "program_type": "python",
                    "signature": SIGNATURE,
                    "entrypoint": "examples.text:keywords",
                    "instructions": "i",
                }
            ]
        }
    ],
    ("post", "/programs/{program_id}/promote"): [{"force": True, "reason": "r"}],
    ("post", "/programs/{program_id}/demote"): [{"reason": "r"}],
    ("post", "/programs/{program_id}/restore"): [{"revision": 1, "deletion": 1, "reason": "r"}],
    ("post", "/programs/{program_id}/execute"): [{"inputs": {"text": "a"}, "session_id": "hostile"}],
    ("post", "/programs/{program_id}/batch"): [{"inputs": [{"text": "a"}], "session_id": "hostile"}],
    ("post", "/pools/reload"): [{"reason": "r"}],
    ("post", "/pools/{version}/reload"): [{"reason": "r"}],
    ("put", "/lm"): [LM],
    ("put", "/sessions/{session_id}/lm"): [LM],
    ("patch", "/rollout"): [{"canary_percent": 0, "reason": "r"}],
    ("post", "/rollout/rollback"): [{"reason": "r", "in_flight": "finish"}],
    ("post", "/rollout/rotate"): [{"reason": "r"}],
    ("post", "/rollout/unrotate"): [{"reason": "r"}],
    ("post", "/shadow/{program_id}/compare"): [{"inputs": {"text": "a"}}],
    ("post", "/migration/validations"): [
        {"pools": "p", "items": [{"item": "tests", "state": "met", "evidence": "e", "how": "h"}], "report": {"a": "b"}}
    ],
    ("put", "/migration/items/{item}"): [{"note": "n"}],
    ("put", "/rollout/plan"): [
        {
            "name": "a plan",
            "steps": [{"percent": 5, "hold_s": 60}],
            "guardrails": {"upstream": {"action": "observe"}},
            "on_inconclusive": "hold",
        }
    ],
    **{("post", f"/rollout/{verb}"): [{"reason": "r"}] for verb in RAMP_VERBS},
}
"""A body for each operation that takes one, with all of its members that are text."""
FREE = {"default", "state", "inputs", "report"}
"""Members that hold any JSON: the store keeps it as JSON, in which every character is escaped."""


def parameters(method: str, path: str) -> list[dict[str, Any]]:
    """The parameters of an operation."""
    found: list[dict[str, Any]] = DOCUMENT["paths"].get(path, {}).get(method, {}).get("parameters", [])
    return found


def takes_text(parameter: dict[str, Any]) -> bool:
    """Tells if a parameter is text, and not a number."""
    schema = parameter["schema"]
    return "string" in [one.get("type") for one in (schema, *schema.get("anyOf", []))]


def request(method: str, path: str, name: str | None = None, text: str = "a") -> tuple[str, dict[bytes, bytes]] | None:
    """The path and headers of a request in which the parameter `name` is `text`; None if HTTP cannot carry that."""
    query, headers = [], {}
    for parameter in parameters(method, path):
        is_hostile = parameter["name"] == name
        value = text if is_hostile else "v1" if parameter["name"] == "version" else "a"
        escaped = quote(value, safe="", errors="surrogatepass")
        match parameter["in"]:
            case "path":
                path = path.replace(f"{{{parameter['name']}}}", escaped)
            case "query" if is_hostile:
                query.append(f"{parameter['name']}={escaped}")
            case "header" if is_hostile:
                if not value.isprintable():
                    return None
                headers[parameter["name"].encode()] = value.encode()
    return "?".join([path, *query]), headers


def bodies(method: str, path: str, text: str) -> Iterator[tuple[list[str | int], dict[str, Any]]]:
    """Every body of an operation in which one text, or the name of one member more, is `text`; and where that is."""
    for body in BODIES.get((method, path), []):
        yield ["surprise"], {**body, text: 1}
        for place in _texts(body, []):
            changed = deepcopy(body)
            target: Any = changed
            for step in place[:-1]:
                target = target[step]
            target[place[-1]] = text
            yield place, changed


def send(client: httpx.Client, method: str, url: str, headers: dict[bytes, bytes], body: Any = None) -> httpx.Response:
    """Sends it as it is; a body as JSON with everything escaped."""
    content = None if body is None else json.dumps(body).encode()
    sent = {b"content-type": b"application/json", **headers} if content is not None else headers
    return client.request(method.upper(), url, content=content, headers=sent)


def _texts(value: Any, place: list[str | int]) -> Iterator[list[str | int]]:
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _texts(member, [*place, name])
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _texts(member, [*place, index])
