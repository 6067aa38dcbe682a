"""Compares every answer that a test's client gets with the OpenAPI document."""

import functools
import re
import threading
from typing import Any

import httpx

from app.application import create_app
from app.openapi.document import Document
from app.problems import CONTENT_TYPE
from config.settings import Settings


def check_answer(response: httpx.Response) -> None:
    """Fails if an operation answers with a status, a content type or a code that the document does not list.

    A hook of httpx. Answers of paths that are in no document (pages, unknown paths) are left alone.
    """
    operation = _operation(response.request.method, response.request.url.path)
    if operation is None:
        return
    said = f"{operation['operationId']} answered {response.status_code}"
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{said}, which the OpenAPI document does not list: {response.read().decode()}"
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type and response.status_code != 204:  # FastAPI names the type of a body that is not there
        assert media_type in documented.get("content", ()), f"{said} with {media_type}, which is not listed"
    if media_type == CONTENT_TYPE:
        response.read()
        code = response.json()["code"]
        assert code in operation["x-problems"], f"{said} {code}, which is not listed: name it in `raises`"


@functools.cache
def document() -> Document:
    """Returns the OpenAPI document of this checkout."""
    return create_app(Settings(_env_file=None)).openapi()


_BUILDS = threading.Lock()
"""pydantic builds models on one thread at a time; tests start services on several."""


@functools.cache
def _routes() -> list[tuple[re.Pattern[str], str, Document]]:
    """The operations, those first whose paths have the fewest parameters."""
    found: list[tuple[re.Pattern[str], str, Document]] = []
    paths = document()["paths"]
    for path in sorted(paths, key=lambda path: path.count("{")):
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + "$")
        found += [(pattern, method.upper(), operation) for method, operation in paths[path].items()]
    return found


def _operation(method: str, path: str) -> dict[str, Any] | None:
    with _BUILDS:
        routes = _routes()
    matching = ((known, operation) for pattern, known, operation in routes if pattern.match(path))
    return next((operation for known, operation in matching if known == method), None)
