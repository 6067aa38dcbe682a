"""The pages' content, without a browser: evidence as `analysis` has it, the report of a validation, many programs."""

import asyncio
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.guardrails import Config
from analysis.planning.replay import Replay
from app.console import words
from bench.scenarios.scale import fill, program_id
from cli.rollout.trace_file import TraceFile
from tests.console.support import OWN, program
from tests.support.service import ROOT, Service, running_service
from tests.support.user_code import UserCode
from tests.support.waiting import wait_until

WORKERS = 64
PROGRAMS = 1000
MAX_PAGE_BYTES = 64 * 1024
"""The largest page of the console with so many workers and programs, as it travels."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An open service amid a ramp, whose programs fail now and then on both versions."""
    with running_service(tmp_path_factory.mktemp("pages")) as service:
        program(service, None, "echo", "echo", {"nonce": "string"})
        program(service, None, "fail", "fail", {"message": "string"})
        plan = {"steps": [{"percent": 50, "hold_s": 3600}]}
        assert service.client.put("/rollout/plan", json=plan).status_code == 200
        assert service.client.post("/rollout/start", json={}).status_code == 200
        for number in range(60):
            name, inputs = ("fail", {"message": "x"}) if number % 6 == 0 else ("echo", {"nonce": "x"})
            service.execute(name, inputs=inputs)
        yield service


def text(page: str) -> str:
    """A page's text, blanks joined."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_intervals_are_those_of_the_analysis(service: Service, tmp_path: Path) -> None:
    """The rows of a replay of the judge's own trace, those of the API, and those of the page are the same."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text(service.client.get("/rollout/analysis/trace").text)
    recorded = TraceFile(str(trace))
    outline = recorded.outline()
    replay = Replay(outline.steps, outline.programs, Config(), outline.actions, outline.promotes)
    assert list(replay.changes(recorded.calls())) == []
    replayed = {row.name: row for row in replay.rows()}
    served = service.client.get("/rollout/analysis").json()
    page = service.client.get("/console").text
    for row in served:
        low, high = row["ratio"]
        if row["name"] in ("engine", "program", "latency", "tail"):
            assert replayed[row["name"]].ratio == pytest.approx((low, high)), row
        shown = re.search(rf'scope="row">{words.GUARDRAILS[row["name"]][0]}<.*?</tr>', page, re.DOTALL)
        if shown is not None:
            assert text(words.interval((low, high))) in text(shown[0]), row
    assert any(row["ratio"][1] is not None for row in served), "some interval has both bounds"


def validate(service: Service, states: dict[str, str], report: dict[str, Any]) -> None:
    pools = service.client.get("/migration").json()["pools"]
    items = [{"item": item, "state": state, "evidence": f"{item} seen"} for item, state in states.items()]
    answer = service.client.post("/migration/validations", json={"pools": pools, "items": items, "report": report})
    assert answer.status_code == 201, answer.text


def test_the_migration_page_has_the_report(service: Service) -> None:
    """The changes since the validation before, throughput and memory with their intervals."""
    assert "Report of the validation" not in service.client.get("/console/migration").text
    validate(service, {"load": "not_met", "memory": "unknown"}, {})
    load = {"calls_per_s": 1234.5, "p50": 1.5, "p95": 2.5, "p99": 3500}
    figures = {
        "benchmarks": {"4": {"v1": load, "v2": {**load, "calls_per_s": 4938}, "interval": [3.9, 4.25], "ratios": [4]}},
        "memory": {"service v2": {"interval": [-12.4, None], "calls": 5000}},
    }
    validate(service, {"load": "met", "memory": "unknown"}, figures)
    shown = text(service.client.get("/console/migration").text)
    assert "1 met, 1 unknown. Since the validation" in shown
    assert "load was not met, is met" in shown
    assert "4 V1 1,234 1.5 ms 2.5 ms 3.5 s 3.90 × to 4.25 × V2 4,938" in shown
    assert "service v2 -12 to ∞ 5,000" in shown


@pytest.mark.parametrize(
    "report",
    [{"benchmarks": 5, "memory": []}, {"benchmarks": {"4": {"v1": "<b>"}}, "memory": {"a": {"interval": [1]}}}],
)
def test_figures_of_another_form_are_left_out(service: Service, report: dict[str, Any]) -> None:
    """An admin may keep any figures; the page stands."""
    validate(service, {"load": "met"}, report)
    answer = service.client.get("/console/migration")
    assert answer.status_code == 200
    assert "Report of the validation" in answer.text
    assert "Throughput" not in answer.text


def test_a_programs_page_lists_each_member_that_is_set(service: Service) -> None:
    """One with its default is left out."""
    shown = service.client.get("/programs/echo").json()
    body = {
        "program_type": "python",
        "entrypoint": shown["entrypoint"],
        "signature": {
            "inputs": [{"name": "nonce", "type": "string"}],
            "outputs": [{"name": "nonce", "type": "string"}],
        },
        "timeout_s": 2.5,
        "shared": True,
    }
    assert service.client.put("/programs/listed", json=body).status_code == 201
    page = text(service.client.get("/console/programs/listed").text)
    assert "timeout_s 2.5" in page
    assert "shared yes" in page
    assert "memory_mb" not in page


def test_a_thousand_programs_and_many_workers_fit_on_small_pages(tmp_path: Path) -> None:
    """The list has pages, which lead to every program once; 64 workers of each version make a page of bounded size."""
    database = f"sqlite+aiosqlite:///{tmp_path}/poolshift.db"
    asyncio.run(fill(database, PROGRAMS))
    with running_service(tmp_path, DATABASE_URL=database, V1_POOL_SIZE=WORKERS, V2_POOL_SIZE=WORKERS) as service:
        wait_until(lambda: all(service.pool(one)["idle"] == WORKERS for one in ("v1", "v2")), "all workers are there")
        seen: list[str] = []
        path: str | None = "/console/programs"
        while path is not None:
            page = service.client.get(path).text
            assert len(page.encode()) < MAX_PAGE_BYTES
            seen += re.findall(r'href="/console/programs/([^"?]+)"', page)
            following = re.search(r'rel="next" href="([^"]+)"', page)
            path = html.unescape(following[1]) if following is not None else None
        assert seen == [program_id(number) for number in range(PROGRAMS)]
        for one in ("", "/pools", "/failures"):
            assert len(service.client.get(f"/console{one}").content) < MAX_PAGE_BYTES, one
        workers = re.findall(r'<th scope="row">(\d+)</th>', service.client.get("/console/pools").text)
        assert len(set(workers)) == 2 * WORKERS


def test_the_code_before_a_reload_comes_back(tmp_path: Path) -> None:
    """The page of the pools has a button for it, once a reload has brought other code."""
    code = UserCode(tmp_path / "code")
    code.write("def first():\n    return 'old'\n")
    with running_service(tmp_path, **code.settings) as service:
        first = service.create("shop:first", {})

        def reload(**form: str) -> str:
            data = {"version": "v2", "revision": "1", "reason": "as the test has it", **form}
            return service.client.post("/console/reload", data=data, headers=OWN, follow_redirects=True).text

        assert "The workers keep their code: v2 keeps no code from before a reload" in text(reload(code="previous"))
        assert 'value="previous"' not in service.client.get("/console/pools").text
        code.write("def second():\n    return 'new'\n")
        assert f"The workers keep their code: a program does not load with the new code ({first}: " in text(reload())
        code.write("def first():\n    return 'new'\n")
        page = reload()
        assert "Done: the workers have the code that is on disk." in text(page)
        assert page.count('value="previous"') == 1
        assert "Done: the workers have the code from before the last reload." in text(reload(code="previous"))
        answer = service.execute(first, headers={"x-pool-version": "v2"})
        assert answer.json()["outputs"] == {"result": "old"}


@pytest.mark.parametrize(
    "template", sorted((ROOT / "app/console/templates").rglob("*.html")), ids=lambda path: path.name
)
def test_a_landmark_has_a_name_of_its_own(template: Path) -> None:
    """On pages, too, that the browser's test sees empty: a box that scrolls within a section is none."""
    text = template.read_text()
    names = re.findall(r'<(?:section|nav|aside|form)\b[^>]*\baria-label(?:ledby)?="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert 'role="region"' not in text
