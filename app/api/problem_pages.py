"""`/problems/{code}`: the page that the `type` of a problem refers to. Needs no key."""

from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from app.api.html_page import html_of, html_page, plain, wants_html
from app.assets import root_path_of
from app.problem_kinds import KINDS, Kind
from app.problems import TYPE_PREFIX, Problem

router = APIRouter(include_in_schema=False)


@router.get("/problems")
async def list_problems(request: Request) -> Response:
    """Lists all codes, with a link to the page of each."""
    if not wants_html(request):
        return JSONResponse({"items": [_view(code, kind) for code, kind in KINDS.items()]})
    prefix = escape(root_path_of(request) + TYPE_PREFIX)
    items = (
        f'<dt><a href="{prefix}{code}"><code>{code}</code></a></dt><dd>{kind.status}: {escape(kind.title)}</dd>'
        for code, kind in KINDS.items()
    )
    return html_page(request, "Problems", f"<dl>{''.join(items)}</dl>")


@router.get("/problems/{code}")
async def show_problem(code: str, request: Request) -> Response:
    """Says what a code means, if the same request may be sent again, and what to do."""
    kind = KINDS.get(code)
    if kind is None:
        raise Problem("not_found", f"there is no problem with the code {code!r}")
    if wants_html(request):
        return html_page(request, kind.title, _body(code, kind, root_path_of(request)))
    if "json" in request.headers.get("accept", "").lower():
        return JSONResponse(_view(code, kind), headers={"vary": "Accept"})
    return PlainTextResponse(_text(code, kind), headers={"vary": "Accept"})


def _view(code: str, kind: Kind) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + code,
        "code": code,
        "title": kind.title,
        "status": kind.status,
        "category": kind.category,
        "when": plain(kind.when),
        "retry_safe": kind.retry_safe,
        "headers": list(kind.headers),
        "remedy": plain(kind.remedy),
    }


def _rows(code: str, kind: Kind) -> list[tuple[str, str]]:
    """The questions that a page answers, each with its answer in Markdown."""
    again = (
        "Yes: the program surely did not start. The same request does no harm, and may fail again."
        if kind.retry_safe
        else "Not if running the program twice does harm. A program that is declared `idempotent` may run again."
    )
    rows = [
        ("Code", f"`{code}`"),
        ("Status", f"{kind.status}, category {kind.category}"),
        ("When", kind.when),
        ("May the same request be sent again?", again),
        ("What to do", kind.remedy),
    ]
    if kind.headers:
        rows.append(("Headers", ", ".join(f"`{header}`" for header in kind.headers)))
    return rows


def _body(code: str, kind: Kind, root_path: str) -> str:
    rows = "".join(
        f"<dt>{question}</dt><dd>{html_of(_sentence(answer))}</dd>" for question, answer in _rows(code, kind)
    )
    prefix = escape(root_path)
    return f'<dl>{rows}</dl><p><a href="{prefix}/problems">All problems</a> · <a href="{prefix}/">This service</a></p>'


def _text(code: str, kind: Kind) -> str:
    rows = (f"{question.rstrip('?')}: {_sentence(plain(answer))}" for question, answer in _rows(code, kind))
    return "\n".join([kind.title, *rows]) + "\n"


def _sentence(text: str) -> str:
    """Begins a text of the table with a capital; code stays as it is."""
    return text[:1].upper() + text[1:]
