"""A doubly linked list whose members are their own links: adding and removing one makes no object and hashes none."""


class Link:
    """A member of at most one chain at a time."""

    def __init__(self) -> None:
        self.chain: Chain | None = None
        """The chain that it is in."""
        self.before: Link | None = None
        self.after: Link | None = None


class Chain:
    """Links in an order."""

    def __init__(self) -> None:
        self.first: Link | None = None
        self.last: Link | None = None
        self.length = 0

    def append(self, link: Link) -> None:
        """Adds a link, which must be in no chain, behind all others."""
        last = link.before = self.last
        if last is None:
            self.first = link
        else:
            last.after = link
        self.last = link
        link.chain = self
        self.length += 1

    def prepend(self, link: Link) -> None:
        """Adds a link, which must be in no chain, before all others."""
        first = link.after = self.first
        if first is None:
            self.last = link
        else:
            first.before = link
        self.first = link
        link.chain = self
        self.length += 1

    def remove(self, link: Link) -> None:
        """Takes out a link of this chain."""
        before, after = link.before, link.after
        if before is None:
            self.first = after
        else:
            before.after = after
        if after is None:
            self.last = before
        else:
            after.before = before
        link.chain = link.before = link.after = None
        self.length -= 1

    def links(self) -> list[Link]:
        """Lists the links in their order."""
        links: list[Link] = []
        link = self.first
        while link is not None:
            links.append(link)
            link = link.after
        return links
