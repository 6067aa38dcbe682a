"""Files for browsers, served by the service itself under names that change with their content.

`app/vendored/` has those of others, which `tools/vendor.py` renews. Pages of our own have a folder of files each.
"""

import asyncio
import gzip
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.problems import Problem

VENDORED = Path(__file__).with_name("vendored")
"""Folders of packages from npm, each with its licence, and the manifest with their hashes."""

_MEDIA_TYPES = {
    ".css": "text/css",
    ".ico": "image/vnd.microsoft.icon",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
"""The kinds of files that pages load; others (licences, manifests) stay where they are."""
_COMPRESSED = frozenset({".css", ".ico", ".js", ".svg"})
"""The kinds of files that get smaller; the others are compressed by their format."""
_DIGITS = 16
_HEADERS = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}

router = APIRouter(include_in_schema=False)


class DuplicateAsset(Exception):
    """Two files have the same name, so that a page could get the wrong one."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file in memory, with the part of its path that names its content."""

    hashed_name: str
    media_type: str
    content: bytes
    is_compressible: bool


class Assets:
    """The files of some folders, read once: a request waits for no disk."""

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        self._by_name: dict[str, Asset] = {}
        self._by_hashed_name: dict[str, Asset] = {}
        self._compressed: dict[str, bytes] = {}
        for folder in folders:
            self.add(folder)

    def add(self, folder: Path) -> None:
        """Reads a folder, and the folders in it.

        Raises:
            DuplicateAsset: another folder has a file of the same name.
        """
        for path in _files(folder):
            if path.name in self._by_name:
                raise DuplicateAsset(f"{path}: there is an asset of this name already")
            asset = _read(path)
            self._by_name[path.name] = self._by_hashed_name[asset.hashed_name] = asset

    def url(self, name: str) -> str:
        """Returns the path of a file by its plain name, for example `/assets/page.0123456789abcdef.css`.

        A page puts the prefix before it under which a proxy serves the application.

        Raises:
            KeyError: there is no such file.
        """
        return f"/assets/{self._by_name[name].hashed_name}"

    def find(self, hashed_name: str) -> Asset | None:
        """Finds a file by its name with the hash."""
        return self._by_hashed_name.get(hashed_name)

    async def compressed(self, asset: Asset) -> bytes:
        """Returns a file's content in gzip, which a thread makes at the first request for it."""
        found = self._compressed.get(asset.hashed_name)
        if found is None:
            found = await asyncio.to_thread(gzip.compress, asset.content, mtime=0)
            self._compressed[asset.hashed_name] = found
        return found


def root_path_of(request: Request) -> str:
    """Returns the path under which a proxy serves the application."""
    root_path: str = request.scope.get("root_path", "")
    return root_path.rstrip("/")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix in _MEDIA_TYPES and path.is_file())


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    name = f"{path.stem}.{digest}{path.suffix}"
    return Asset(name, _MEDIA_TYPES[path.suffix], content, path.suffix in _COMPRESSED)


@router.get("/assets/{hashed_name}")
async def asset(hashed_name: str, request: Request) -> Response:
    """Serves a file, which a browser may keep for ever: other content has another name. Needs no key."""
    assets: Assets = request.app.state.assets
    found = assets.find(hashed_name)
    if found is None:
        raise Problem("not_found", f"no asset {hashed_name!r}")
    if not found.is_compressible:
        return Response(found.content, media_type=found.media_type, headers=_HEADERS)
    headers = _HEADERS | {"vary": "Accept-Encoding"}
    if not _takes_gzip(request.headers.get("accept-encoding", "")):
        return Response(found.content, media_type=found.media_type, headers=headers)
    content = await assets.compressed(found)
    return Response(content, media_type=found.media_type, headers=headers | {"content-encoding": "gzip"})


def _takes_gzip(accepted: str) -> bool:
    """Tells if an `Accept-Encoding` names gzip, and not to refuse it (`q=0`)."""
    for one in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        if name == "gzip":
            return not any(part.startswith("q=") and not part[2:].strip("0.") for part in parameters)
    return False
