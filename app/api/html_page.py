"""Pages of HTML that the service serves for people, and the choice between a page and data."""

import re
from html import escape

from fastapi import Request
from fastapi.responses import HTMLResponse

from app.assets import Assets, root_path_of

NAME = "Poolshift"
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{full_title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{style}">
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "vary": "Accept",
}
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_CODE = re.compile(r"`([^`]+)`")


def html_page(request: Request, title: str, body: str) -> HTMLResponse:
    """Makes a page without scripts; `body` is HTML."""
    assets: Assets = request.app.state.assets
    style = root_path_of(request) + assets.url("page.css")
    full_title = title if title == NAME else f"{title} · {NAME}"
    page = _PAGE.format(title=escape(title), full_title=escape(full_title), style=escape(style), body=body)
    return HTMLResponse(page, headers=_HEADERS)


def html_of(text: str) -> str:
    """Converts a line of Markdown that has code and links alone; of a link, the text stays."""
    return _CODE.sub(r"<code>\1</code>", escape(plain(text), quote=False))


def plain(text: str) -> str:
    """Returns a line of Markdown without the targets of its links."""
    return _LINK.sub(r"\1", text)


def wants_html(request: Request) -> bool:
    """Tells if a browser asks: programs name JSON in `Accept`, or nothing in particular."""
    return "text/html" in request.headers.get("accept", "").lower()
