"""`/openapi.json`, `/docs` and `/redoc`. FastAPI's own need no key, and load scripts from a public host."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from app.access.auth import Reader
from app.assets import Assets
from app.pages import root_path_of

OPENAPI_PATH = "/openapi.json"
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # both tools style their elements in place
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "worker-src blob:",  # ReDoc's search
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {"content-security-policy": _CONTENT_SECURITY_POLICY, "x-content-type-options": "nosniff"}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
{styles}
</head>
<body>
<div id="{target}" data-openapi="{openapi}"></div>
<noscript>This page needs JavaScript. <a href="{openapi}">The OpenAPI document</a> has all that it shows.</noscript>
{scripts}
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get(OPENAPI_PATH)
async def openapi(request: Request, _: Reader) -> JSONResponse:
    """Serves the OpenAPI document."""
    schema = request.app.openapi()
    root_path = root_path_of(request)
    return JSONResponse({**schema, "servers": [{"url": root_path}]} if root_path else schema)


@router.get("/docs")
async def swagger_ui(request: Request, _: Reader) -> HTMLResponse:
    """Serves Swagger UI, in which endpoints can be tried."""
    return _page(request, "swagger-ui", "swagger-ui.css", "swagger-ui-bundle.js", "swagger.js")


@router.get("/redoc")
async def redoc(request: Request, _: Reader) -> HTMLResponse:
    """Serves ReDoc."""
    return _page(request, "redoc", "redoc.standalone.js", "redoc.js")


def _page(request: Request, target: str, *names: str) -> HTMLResponse:
    """A page that loads these assets, with an element that its script fills."""
    assets: Assets = request.app.state.assets
    root_path = root_path_of(request)
    urls = [escape(root_path + assets.url(name)) for name in ("documentation.css", *names)]
    content = _PAGE.format(
        title=escape(request.app.title),
        target=target,
        openapi=escape(root_path + OPENAPI_PATH),
        styles="\n".join(f'<link rel="stylesheet" href="{url}">' for url in urls if url.endswith(".css")),
        scripts="\n".join(f'<script src="{url}"></script>' for url in urls if url.endswith(".js")),
    )
    return HTMLResponse(content, headers=_HEADERS)
