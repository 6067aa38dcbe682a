"""`/`: where to go on from here, as a page in a browser and as JSON for programs. Needs no key."""

from html import escape

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Match

from app.api.html_page import NAME, html_page, wants_html
from app.assets import root_path_of
from app.version import VERSION
from config.settings import Settings

router = APIRouter(include_in_schema=False)

_LINKS = {
    "docs": ("/docs", "The API, to read and to try"),
    "openapi": ("/openapi.json", "The OpenAPI document, for tools"),
    "problems": ("/problems", "Every error: its meaning, and the remedy"),
    "console": ("/console", "The console, for operators"),
    "readyz": ("/readyz", "The state of the service"),
    "metrics": ("/metrics", "Every figure, for Prometheus"),
}
_FIRST_CALL = """\
curl {url}/programs -H 'Content-Type: application/json' \\
  -d '{{"id": "{program}", "program_type": "python", "entrypoint": "{entrypoint}"}}'
curl {url}/programs/{program}/execute -H 'Content-Type: application/json' \\
  -d '{{"inputs": {inputs}}}'
"""
_OF_THE_EXAMPLES = {
    "program": "keywords",
    "entrypoint": "examples.text:keywords",
    "inputs": '{"text": "One flag rolls everything back, at once, with nothing lost."}',
}
_OF_A_MODULE = {"program": "first", "entrypoint": "{module}:FUNCTION", "inputs": '{"PARAMETER": "VALUE"}'}


@router.get("/")
async def show_root(request: Request) -> Response:
    """Names the service, and links to what it has."""
    root_path = root_path_of(request)
    links = {name: (root_path + path, text) for name, (path, text) in _LINKS.items() if _is_served(path, request)}
    if not wants_html(request):
        urls = {name: path for name, (path, _) in links.items()}
        return JSONResponse({"name": "poolshift", "version": VERSION, "links": urls}, headers={"vary": "Accept"})
    items = "".join(f'<li><a href="{escape(path)}">{escape(text)}</a></li>' for path, text in links.values())
    body = (
        f"<p>Version {escape(VERSION)}. Runs programs on pools of Python workers, and moves their traffic from one "
        f"engine to the next.</p><ul>{items}</ul>"
    )
    return html_page(request, NAME, body + _first_call(request))


def _first_call(request: Request) -> str:
    """Shows a call that works here, or its form if the workers may not import the examples."""
    settings: Settings = request.app.state.settings
    if "examples" in settings.allowed_modules:
        call, lead = _OF_THE_EXAMPLES, "Creates a program of the examples, and runs it:"
    else:
        module = settings.allowed_modules[0]
        call = {name: part.replace("{module}", module) for name, part in _OF_A_MODULE.items()}
        lead = (
            f"Creates a program of a function in <code>{escape(module)}</code>, and runs it. Write the name of the "
            "function in place of <code>FUNCTION</code>. The first answer names the inputs, for "
            "<code>PARAMETER</code> and <code>VALUE</code>:"
        )
    shown = escape(_FIRST_CALL.format(url=str(request.base_url).rstrip("/"), **call), quote=False)
    key = "" if settings.api_keys_file is None else "Add <code>-H 'Authorization: Bearer KEY'</code> to both. "
    return f"<h2>The first call</h2><p>{key}{lead}</p><pre>{shown}</pre>"


def _is_served(path: str, request: Request) -> bool:
    scope = {**request.scope, "path": path, "method": "GET"}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
