"""`/`: where to go on from here, as a page in a browser and as JSON for programs. Needs no key."""

from html import escape

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Match

from app.pages import html_page, root_path_of, wants_html
from app.version import VERSION
from config.settings import Settings

router = APIRouter(include_in_schema=False)

_LINKS = {
    "docs": ("/docs", "The API, to try"),
    "redoc": ("/redoc", "The API, to read"),
    "openapi": ("/openapi.json", "The OpenAPI document, for tools"),
    "problems": ("/problems", "Every error: its meaning, and the remedy"),
    "console": ("/console", "The console, for operators"),
    "readyz": ("/readyz", "The state of the service"),
    "metrics": ("/metrics", "Every figure, for Prometheus"),
}
_FIRST_CALL = """\
curl {url}/programs -H 'Content-Type: application/json' \\
  -d '{{"id": "keywords", "program_type": "python", "entrypoint": "examples.text:keywords"}}'
curl {url}/programs/keywords/execute -H 'Content-Type: application/json' \\
  -d '{{"inputs": {{"text": "One flag rolls everything back, at once, with nothing lost."}}}}'
"""


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
    return html_page(request, "Poolshift", body + _first_call(request))


def _first_call(request: Request) -> str:
    """Shows a call that works here; none if the workers may not import the examples."""
    settings: Settings = request.app.state.settings
    if "examples" not in settings.allowed_modules:
        return ""
    call = escape(_FIRST_CALL.format(url=str(request.base_url).rstrip("/")), quote=False)
    key = "" if settings.api_keys_file is None else "Add <code>-H 'Authorization: Bearer KEY'</code> to both. "
    return f"<h2>The first call</h2><p>{key}Creates a program of the examples, and runs it:</p><pre>{call}</pre>"


def _is_served(path: str, request: Request) -> bool:
    scope = {**request.scope, "path": path, "method": "GET"}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
