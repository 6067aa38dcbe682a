"""Every route under `/console`; one that is not there is answered by a page too."""

from fastapi import Response

from app.console import actions, pages, programs
from app.console.access import Viewing
from app.console.route import new_router
from app.problems import Problem

router = new_router()
for part in (pages.router, actions.router, programs.router):
    router.routes.extend(part.routes)


@router.get("/{path:path}")
async def nothing(_: Viewing) -> Response:
    """Answers for a page that does not exist."""
    raise Problem("not_found", "There is no such page.")
