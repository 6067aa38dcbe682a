"""Which changes in the folder of a mounted file are a reason to read the file again."""

from pathlib import Path

import pytest
from watchfiles import Change

from config import file_watch
from config.file_watch import WatchedFile


@pytest.fixture
def configmap(tmp_path: Path) -> Path:
    """A file as Kubernetes mounts a ConfigMap: a link into a folder that is itself a link, which is swapped."""
    (tmp_path / "..2026").mkdir()
    (tmp_path / "..2026" / "rollout.yaml").write_text("canary_percent: 1\n")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "rollout.yaml").symlink_to("..data/rollout.yaml")
    return tmp_path / "rollout.yaml"


def concerned(file: WatchedFile, folder: Path, *names: str) -> list[str]:
    """The names of which a change is a reason."""
    return [name for name in names if file.is_concerned(Change.modified, f"{folder}/./{name}")]


def test_a_neighbour_is_no_reason(configmap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, and the links behind it; a log in the same folder is none, however often it is written."""
    monkeypatch.setattr(file_watch, "LOOK_AGAIN_MS", 3_600_000)
    file = WatchedFile(configmap)
    assert file.look() == b"canary_percent: 1\n"
    names = ["rollout.yaml", "..data", "..2026", "service.log", "rollout.yaml.swp", "..data_tmp"]
    assert concerned(file, configmap.parent, *names) == ["rollout.yaml", "..data", "..2026"]

    (configmap.parent / "current").mkdir()
    (configmap.parent / "current" / "rollout.yaml").write_text("canary_percent: 2\n")
    configmap.unlink()
    configmap.symlink_to("current/rollout.yaml")
    assert file.look() == b"canary_percent: 2\n"
    assert concerned(file, configmap.parent, "..data", "current") == ["current"]


def test_a_link_to_itself_has_an_end(tmp_path: Path) -> None:
    """And a file that is not there has its own name."""
    path = tmp_path / "rollout.yaml"
    file = WatchedFile(path)
    assert isinstance(file.look(), OSError)
    assert concerned(file, tmp_path, "rollout.yaml") == ["rollout.yaml"]
    path.symlink_to("rollout.yaml")
    assert isinstance(file.look(), OSError)


def test_a_busy_folder_is_looked_at_like_a_silent_one(configmap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems send no event of the file; its neighbours must not keep the regular look away."""
    monkeypatch.setattr(file_watch, "LOOK_AGAIN_MS", 0)
    file = WatchedFile(configmap)
    file.look()
    assert concerned(file, configmap.parent, "service.log") == ["service.log"]
