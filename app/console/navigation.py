"""The pages that the navigation leads to."""

from typing import Final, NamedTuple


class Page(NamedTuple):
    """A page; its template is called as it is, and so is its path."""

    name: str
    title: str
    is_live: bool = False
    """True if a region of the page follows the service; `live/` has the region's template."""

    @property
    def path(self) -> str:
        """The path under `/console`; the first page has that itself."""
        return "" if self is PAGES[0] else f"/{self.name}"


PAGES: Final = (
    Page("overview", "Overview", is_live=True),
    Page("failures", "Failures", is_live=True),
    Page("pools", "Pools", is_live=True),
    Page("programs", "Programs"),
    Page("history", "History"),
    Page("migration", "Migration"),
    Page("shadow", "Shadow"),
)
"""In the order of the navigation."""
TITLES: Final = {page.name: page.title for page in PAGES}
LIVE_PAGES: Final = frozenset(page.name for page in PAGES if page.is_live)
