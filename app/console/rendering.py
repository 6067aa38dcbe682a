"""Pages from templates. Jinja2 escapes every value; nothing of a program, a key or a client is ever markup."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.assets import Assets, root_path_of
from app.console import words
from app.console.access import Visitor
from app.console.headers import PREFIX
from app.console.live import Audience, Sample
from app.console.navigation import LIVE_PAGES, PAGES, TITLES
from app.services import Services
from config.api_keys import Scope
from routing.versions import Version

STATIC: Final = Path(__file__).with_name("static")


def _position(ratio: float | None) -> float:
    """The place of a ratio on an axis from 0.25 × to 4 ×, in hundredths of the axis; the middle is 1 ×."""
    if ratio is None:
        return 100.0
    if ratio <= 0:
        return 0.0
    return round(max(0.0, min(100.0, 50 + 25 * math.log2(ratio))), 2)


_FILTERS: Mapping[str, Callable[..., Any]] = {
    "percent": words.percent,
    "number": words.number,
    "milliseconds": words.milliseconds,
    "size": words.size,
    "span": words.span,
    "ago": words.ago,
    "clock": words.clock,
    "coming": words.coming,
    "times": words.times,
    "interval": words.interval,
    "finding": words.finding,
    "position": _position,
    "pretty": lambda value: json.dumps(value, indent=2, ensure_ascii=False, default=str),
}


class Renderer:
    """The templates, and what all of them may ask for."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(Path(__file__).with_name("templates")),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
            auto_reload=False,
        )
        self._environment.filters.update(_FILTERS)
        self._environment.globals.update(asset=assets.url, pages=PAGES, guardrails=words.GUARDRAILS, versions=Version)

    def region(self, audience: Audience, sample: Sample) -> str:
        """Renders the live region of a page."""
        template = self._environment.get_template(f"live/{audience.page}.html")
        return template.render(context_of(sample), audience=audience, root=audience.base + PREFIX)

    def page(
        self,
        request: Request,
        name: str,
        *,
        visitor: Visitor | None = None,
        within: str = "",
        title: str = "",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> HTMLResponse:
        """Renders a page by the template of its name. Without a visitor it has no navigation.

        A page that is not in the navigation itself may be `within` one that is.
        """
        page = within or name
        base = root_path_of(request)
        services: Services = request.app.state.services
        content = self._environment.get_template(f"{name}.html").render(
            base=base,
            root=base + PREFIX,
            visitor=visitor,
            page=page,
            title=title or TITLES.get(page, ""),
            is_live=page in LIVE_PAGES,
            can_roll_back=visitor is not None and visitor.may("operate") and Version.V1 in services.pools,
            canary_percent=rollout_percent(services),
            is_written=services.flag.is_written,
            absent=services.machine.absent(),
            **context,
        )
        return HTMLResponse(content, status, dict(headers or {}))


def context_of(sample: Sample) -> dict[str, Any]:
    """The names that the live templates use."""
    return {
        "sample": sample,
        "verdict": words.verdict(sample.status, sample.rollout, sample.rows, has_v1=sample.has_v1),
        "tone": words.tone(sample.status, sample.rows),
        "rows_by_name": {row.name: row for row in sample.rows},
    }


def rollout_percent(services: Services) -> float:
    """The share of V2 in force on this replica."""
    if services.flag.is_cut_off:
        return 0.0
    return services.flag.current.canary_percent if Version.V1 in services.pools else 100.0


def audience_of(request: Request, visitor: Visitor, page: str) -> Audience:
    """The audience that a visitor belongs to on a page."""
    principal = visitor.principal
    return Audience(page, root_path_of(request), principal.may(Scope.OPERATE), principal.may(Scope.ADMIN))
