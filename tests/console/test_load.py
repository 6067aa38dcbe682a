"""Live pages under load: viewers cost the service no memory that it does not give back, and little time."""

import os
import threading
import time
from pathlib import Path

import httpx
import psutil

from bench.scenarios.console import PAGES
from tests.console.support import program
from tests.support.service import Service, running_service
from tests.support.waiting import wait_until

SECONDS = float(os.environ.get("CONSOLE_SECONDS", "6"))
"""`make nightly` looks for ten minutes."""
VIEWERS = len(PAGES)
MAX_GROWTH = 16 * 1024 * 1024
"""Bytes of resident memory that the service may have more after it has settled."""


class Viewer(threading.Thread):
    """One live tab, which keeps what it has got."""

    def __init__(self, service: Service, page: str) -> None:
        super().__init__()
        self.frames = 0
        self.newest = ""
        self._url = f"{service.url}/console/live?page={page}"
        self._is_over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=30) as client, client.stream("GET", self._url) as stream:
            frame: list[str] = []
            for line in stream.iter_lines():
                if line.startswith("data: ") and not line.startswith("data: ["):
                    frame.append(line)
                elif not line and frame:
                    self.newest, frame = "\n".join(frame), []
                    self.frames += 1
                if self._is_over.is_set():
                    return

    def stop(self) -> None:
        self._is_over.set()
        self.join()


def test_viewers_leave_nothing_behind(tmp_path: Path) -> None:
    """Five viewers under traffic: all get frames, who sees the same gets the same, and the memory stays flat."""
    with running_service(tmp_path, CANARY_PERCENT=30) as service:
        program(service, None, "says", "echo", {"nonce": "string"})
        assert service.process is not None
        process = psutil.Process(service.process.pid)
        viewers = [Viewer(service, page) for page in PAGES]
        for viewer in viewers:
            viewer.start()
        wait_until(lambda: service.metric("poolshift_console_viewers") == VIEWERS, "all viewers are live")
        settled, end, calls = 0, time.monotonic() + SECONDS, 0
        while time.monotonic() < end:
            assert service.execute("says", inputs={"nonce": "a"}).status_code == 200
            service.execute("nothing")
            calls += 1
            if settled == 0 and time.monotonic() > end - SECONDS * 0.7:
                settled = process.memory_info().rss
        assert process.memory_info().rss < settled + MAX_GROWTH
        for viewer in viewers:
            wait_until(lambda viewer=viewer: viewer.frames >= 3, "each viewer gets frames")  # type: ignore[misc]
            viewer.stop()
        assert "program_not_found" in viewers[2].newest
        wait_until(lambda: service.metric("poolshift_console_viewers") == 0, "nobody looks any more")
        assert service.metric("poolshift_background_restarts_total", task="console_sampler") == 0
