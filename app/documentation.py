"""`/openapi.json`, `/docs` and `/redoc`. FastAPI's own need no key, these do."""

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

from app.auth import Reader

OPENAPI_PATH = "/openapi.json"

router = APIRouter(include_in_schema=False)


@router.get(OPENAPI_PATH)
async def openapi(request: Request, _: Reader) -> JSONResponse:
    """Serves the OpenAPI document."""
    schema = request.app.openapi()
    root_path = _root_path(request)
    return JSONResponse({**schema, "servers": [{"url": root_path}]} if root_path else schema)


@router.get("/docs")
async def swagger_ui(request: Request, _: Reader) -> HTMLResponse:
    """Serves Swagger UI, in which endpoints can be tried."""
    return get_swagger_ui_html(openapi_url=_root_path(request) + OPENAPI_PATH, title=request.app.title)


@router.get("/redoc")
async def redoc(request: Request, _: Reader) -> HTMLResponse:
    """Serves ReDoc."""
    return get_redoc_html(openapi_url=_root_path(request) + OPENAPI_PATH, title=request.app.title)


def _root_path(request: Request) -> str:
    """The path under which a proxy serves the application."""
    root_path: str = request.scope.get("root_path", "")
    return root_path.rstrip("/")
