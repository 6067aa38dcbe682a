"""The generator of the client's half for threads: the files are its own, and it lets nothing asynchronous through."""

import ast
from pathlib import Path

import pytest

from tools import sync_client

SOURCES = {path: (sync_client.ROOT / path).read_text() for path in sync_client.sources()}
GROUPS = Path("poolshift/client/_async/groups.py")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the half for asyncio, in which the half for threads is still to be written."""
    for path, text in SOURCES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "poolshift/client/_sync").mkdir()
    monkeypatch.setattr(sync_client, "ROOT", tmp_path)
    return tmp_path


def test_the_half_for_threads_is_generated() -> None:
    """The files in the repository are what the generator makes."""
    assert len(SOURCES) > 3
    assert not sync_client.stale()


def test_a_stale_file_is_told_and_written(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing, that somebody has changed, or whose source is gone."""
    assert sync_client.main(["--check"]) == 1
    assert capsys.readouterr().out.count("is not what `make client` writes") == len(SOURCES)
    assert sync_client.main([]) == 0
    assert sync_client.main(["--check"]) == 0

    written = checkout / sync_client.target_of(GROUPS)
    ast.parse(written.read_text())
    written.write_text(written.read_text() + "# by hand\n")
    orphan = written.with_name("orphan.py")
    orphan.touch()
    assert sync_client.main(["--check"]) == 1
    assert sync_client.main([]) == 0
    assert "by hand" not in written.read_text()
    assert not orphan.exists()


@pytest.mark.parametrize("text", ["await asyncio.gather()", "aiter(items)", "x = ASYNC", "http.is_async"])
def test_something_asynchronous_is_not_let_through(checkout: Path, text: str) -> None:
    """The generator names the line: it needs a substitution first."""
    (checkout / GROUPS).write_text(f"x = 1\n{text}\n")
    with pytest.raises(ValueError, match=r"needs a substitution in sync_client\.py"):
        sync_client.synchronous(GROUPS)
