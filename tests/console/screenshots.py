"""Takes the pictures of the console's pages that the documentation shows: `make screenshots`.

A real service runs real programs; nothing on the pictures is made up.
"""

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from app.console import navigation
from tests.console.support import program
from tests.support.service import ROOT, Service, running_service
from tests.support.waiting import wait_until

PICTURES = ROOT / "docs/pictures/console"
PAGES = {page.name: page.path for page in navigation.PAGES} | {"program": "/programs/keywords", "rollback": "/rollback"}
CLIENTS = 2
CALLS = 3000
COMPARED = 60
TEXT = (
    "A canary is a small share of the traffic that tries the new version first. If the canary is well, its share "
    "grows; if it is not, all traffic goes back to the old version."
)
OUTPUTS = {
    "word_count": {"words": "integer", "sentences": "integer", "characters": "integer", "reading_minutes": "number"},
    "keywords": {"keywords": "array"},
    "summarize": {"summary": "string", "compression": "number"},
    "redact": {"text": "string", "redactions": "object"},
}
PLAN = {
    "name": "new engine",
    "latency_margin": 1.5,
    "steps": [
        {"percent": 5, "hold_s": 1, "min_calls": 200},
        {"percent": 25, "hold_s": 600},
        {"percent": 50, "hold_s": 1200, "approval": True},
    ],
}


@contextmanager
def traffic(service: Service) -> Iterator[list[int]]:
    """Clients that call two programs, one of which fails now and then; the list has the status of each answer."""
    statuses: list[int] = []
    is_over = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=service.url, timeout=30) as client:
            while not is_over.is_set():
                number = len(statuses)
                body: dict[str, Any] = {"inputs": {"text": TEXT}}
                name = "word_count"
                if number % 400 == 7:
                    name, body = "translate", {"inputs": {"message": "no dictionary for this language"}}
                statuses.append(client.post(f"/programs/{name}/execute", json=body).status_code)

    threads = [threading.Thread(target=call) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def define(service: Service, name: str, *, version: str | None = None, limit: int = 5, **more: Any) -> None:
    """Creates one of the programs of `examples`, or V2's own definition of it."""
    inputs: list[dict[str, Any]] = [{"name": "text", "type": "string", "description": "The text to read"}]
    if name == "keywords":
        inputs.append({"name": "limit", "type": "integer", "required": False, "default": limit})
    outputs = OUTPUTS[name]
    signature = {"inputs": inputs, "outputs": [{"name": key, "type": kind} for key, kind in outputs.items()]}
    body = {"program_type": "python", "entrypoint": f"examples.text:{name}", "signature": signature, **more}
    params = {} if version is None else {"pool_version": version}
    answer = service.client.put(f"/programs/{name}", json=body, params=params)
    assert answer.is_success, answer.text


def fill(service: Service) -> None:
    """Creates the programs, compares a few calls with V2, which finds fewer keywords, and starts the plan."""
    program(service, None, "translate", "fail", {"message": "string"})
    for name in OUTPUTS:
        define(service, name, idempotent=name == "keywords")
    define(service, "keywords", version="v2", limit=3, idempotent=True)
    shadow = {"shadow_percent": 100, "reason": "compare outputs first"}
    assert service.client.patch("/rollout", json=shadow).status_code == 200

    def compared() -> bool:
        answer = service.client.post("/programs/keywords/execute", json={"inputs": {"text": TEXT}})
        assert answer.status_code == 200, answer.text
        found: int = service.client.get("/shadow").json()["compared"]
        return found >= COMPARED

    wait_until(compared, "shadow calls were compared", 120)
    shadow = {"shadow_percent": 0, "reason": "V2 is to find three keywords, not five"}
    assert service.client.patch("/rollout", json=shadow).status_code == 200
    assert service.client.put("/rollout/plan", json=PLAN).status_code == 200
    assert service.client.post("/rollout/start", json={"reason": "the new engine, step by step"}).status_code == 200


def take(page: Page, service: Service, name: str, path: Path) -> None:
    page.goto(f"{service.url}/console{PAGES[name]}")
    if page.locator("#liveness").count():
        expect(page.locator("#liveness")).to_have_text("Live", timeout=20_000)
    if name == "overview":
        wait_until(lambda: bool(page.evaluate("poolshiftConsole.points.size > 12")), "the charts have points")
    if name == "program":
        page.get_by_label("text").fill(TEXT)
        page.get_by_label("both, side by side").check()
        page.get_by_role("button", name="Run").click()
        expect(page.locator("#results pre")).to_have_count(2)
    page.screenshot(path=path, full_page=True)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        running_service(Path(directory), V2_POOL_SIZE=4, SHADOW_MAX_CPU_PERCENT=100) as service,
        sync_playwright() as playwright,
    ):
        fill(service)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with traffic(service) as statuses:
            wait_until(lambda: len(statuses) > CALLS, "there was traffic", 300)
            for scheme in ("light", "dark"):
                context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 800})
                page = context.new_page()
                for name in PAGES:
                    take(page, service, name, PICTURES / f"{name}-{scheme}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
