"""Files for browsers: hashed names, headers, and the vendored ones as their manifest says."""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from app.application import Application, create_app
from app.assets import VENDORED, Assets, DuplicateAsset
from config.settings import Settings
from tools import vendor

HOST = "http://127.0.0.1"


@pytest.fixture(scope="module")
def app() -> Application:
    """An application that has not started: pages and assets need none of its services."""
    return create_app(Settings(_env_file=None))


def get(
    app: Application, path: str, *, headers: Mapping[str, str] | None = None, root_path: str = ""
) -> httpx.Response:
    """Asks the application itself."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_the_page_loads_nothing_from_elsewhere(app: Application) -> None:
    """Each file that it names is served, for ever under that name; neither script nor style is in the page itself."""
    page = get(app, "/docs")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    local = [name for name in named if name.startswith("/assets/")]
    assert {*named} - {*local} == {"/openapi.json", "data:,"}
    assert len(local) >= 3
    assert re.findall(r"<script[^>]*>([^<]+)<", page.text) == []
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'self'(;|$)", policy)
    assert re.search(r"style-src 'self'(;|$)", policy)
    for name in local:
        answer = get(app, name)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith(
            {"js": "text/javascript", "css": "text/css"}[name[-3:].strip(".")]
        )
        assert hashlib.sha256(answer.content).hexdigest().startswith(name.split(".")[-2])


def test_a_page_behind_a_proxy_names_the_proxys_paths(app: Application) -> None:
    """The prefix under which a proxy serves the application comes before every path."""
    named = re.findall(r'(?:src|href|data-openapi)="(/[^"]+)"', get(app, "/docs", root_path="/pool").text)
    assert named
    assert all(name.startswith("/pool/") for name in named)


@pytest.mark.parametrize(
    ("accepted", "is_compressed"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("br", False),
        ("", False),
    ],
)
def test_a_large_file_travels_compressed(app: Application, accepted: str, is_compressed: bool) -> None:
    """If the browser takes that; a cache between them keeps both."""
    name = app.state.assets.url("swagger-ui-bundle.js")
    for _ in range(2):
        answer = get(app, name, headers={"accept-encoding": accepted})
        assert answer.headers["vary"] == "Accept-Encoding"
        assert (answer.headers.get("content-encoding") == "gzip") == is_compressed
        sent = int(answer.headers["content-length"])
        assert sent < len(answer.content) / 3 if is_compressed else sent == len(answer.content)
        assert hashlib.sha256(answer.content).hexdigest().startswith(name.split(".")[-2])


@pytest.mark.parametrize(
    "name", ["swagger-ui.css", "swagger-ui.0000000000000000.css", "..%2Fassets.py", "manifest.json", "LICENSE"]
)
def test_other_names_are_not_found(app: Application, name: str) -> None:
    """Neither a plain name, nor one of other content, nor a file that no page loads; no cache keeps the answer."""
    answer = get(app, f"/assets/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert "cache-control" not in answer.headers


def test_other_content_has_another_name(tmp_path: Path) -> None:
    """And two files of one name are refused."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "page.css").write_text(f"body {{ margin: {number}px }}")
    first, second = (Assets([tmp_path / str(number)]).url("page.css") for number in (1, 2))
    assert first != second
    with pytest.raises(DuplicateAsset, match=r"page\.css"):
        Assets([tmp_path])


def test_the_vendored_files_are_as_their_packages_have_them() -> None:
    """By the manifest's hashes; each package has its licence and the file by which scanners find it."""
    assert VENDORED == vendor.VENDORED or not vendor.VENDORED.exists()  # a wheel lies elsewhere
    assert list(vendor.faults(VENDORED)) == []
    for name, package in vendor.read_manifest(VENDORED).items():
        assert any(file.upper().startswith("LICEN") for file in package.files), name
        metadata = json.loads((VENDORED / name / "package.json").read_text())
        assert (metadata["name"], metadata["version"]) == (name, package.version)


def test_a_changed_file_is_told(tmp_path: Path) -> None:
    """As are a missing one and a foreign one."""
    files = {"LICENSE": b"MIT", "package.json": b"{}", "a.js": b"1", "b.js": b"2"}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (tmp_path / "one").mkdir()
    for name, content in files.items():
        (tmp_path / "one" / name).write_bytes(content)
    vendor.write_manifest(tmp_path, {"one": vendor.Package("1.0.0", "MIT", digests)})
    assert list(vendor.faults(tmp_path)) == []
    (tmp_path / "one/a.js").write_text("evil")
    (tmp_path / "one/b.js").rename(tmp_path / "one/c.js")
    assert list(vendor.faults(tmp_path)) == [
        "one/b.js: missing",
        "one/c.js: not in the manifest",
        "one/a.js: other content than the manifest says",
    ]


def test_a_package_without_a_licence_is_refused() -> None:
    """As is a file that the package does not have; what must go along is taken without being named."""
    package = {"LICENSE": b"", "package.json": b"{}", "a.js": b"", "a.js.LICENSE.txt": b"", "b.js": b""}
    assert list(vendor.select(package, ["a.js"])) == ["LICENSE", "a.js", "a.js.LICENSE.txt", "package.json"]
    with pytest.raises(vendor.VendorFault, match=r"c\.js"):
        vendor.select(package, ["c.js"])
    with pytest.raises(vendor.VendorFault, match="licence"):
        vendor.select({"package.json": b"{}", "a.js": b""}, ["a.js"])
