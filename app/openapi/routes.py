"""`/openapi.json` and `/docs`. FastAPI's own need no key, and load scripts from a public host."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse

from app.access.auth import Reader
from app.assets import Assets, root_path_of

OPENAPI_PATH = "/openapi.json"
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # Swagger UI's icons
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {"content-security-policy": _CONTENT_SECURITY_POLICY, "x-content-type-options": "nosniff"}
_ASSETS = ("swagger-ui.css", "documentation.css", "swagger-ui-bundle.js", "swagger.js")
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
<div id="swagger-ui" data-openapi="{openapi}"></div>
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
    """Serves Swagger UI, in which the API can be read and tried."""
    assets: Assets = request.app.state.assets
    root_path = root_path_of(request)
    urls = [escape(root_path + assets.url(name)) for name in _ASSETS]
    content = _PAGE.format(
        title=escape(request.app.title),
        openapi=escape(root_path + OPENAPI_PATH),
        styles="\n".join(f'<link rel="stylesheet" href="{url}">' for url in urls if url.endswith(".css")),
        scripts="\n".join(f'<script src="{url}"></script>' for url in urls if url.endswith(".js")),
    )
    return HTMLResponse(content, headers=_HEADERS)
