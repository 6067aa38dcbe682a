"""The tests of the service that cannot hold with V2 on a Ray cluster, each with its reason (tests/ray/suite.py).

A test that fails on Ray and is not here is a defect.
"""

from typing import Final

import pytest

NOT_ON_RAY: Final = {
    "service/test_faults.py::test_a_worker_inherits_nothing_that_it_does_not_need": (
        "the output of a worker on a node is a socket, not a pipe: it has three of them"
    ),
    "service/test_faults.py::test_only_the_service_may_open_more_files": (
        "Ray raises the limit of open files of its processes, of which workers have theirs"
    ),
    "service/test_loading.py::test_a_preloaded_program_is_warm_at_its_first_call": (
        "the service does not wait for the agents of a pool that need not serve: the first call waits for them"
    ),
    "service/test_own_definitions.py::test_v2_alone_tries_it": (
        "the module lies in the service's current folder, which nodes have only as PROGRAMS_DIR"
    ),
    "service/test_process_faults.py::test_pools_come_back_when_there_are_descriptors_again": (
        "the zygotes that it kills are children of the service: those of V2 are on the nodes"
    ),
    "service/test_user_modules.py::test_every_module_of_the_users_is_the_users[v2-in_the_current_folder]": (
        "the modules lie in the service's current folder, which nodes have only as PROGRAMS_DIR"
    ),
    "service/test_worker_user.py::test_a_program_of_another_user": (
        "the Python of the nodes is root's own, which that user cannot read"
    ),
    "service/test_worker_user.py::test_a_fork_bomb_under_a_limit_of_processes": (
        "the driver cannot start Ray's threads under such a limit"
    ),
}
"""Reasons by the test's file and function, with its parameters if the others hold."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips them."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        if reason := NOT_ON_RAY.get(name) or NOT_ON_RAY.get(name.partition("[")[0]):
            item.add_marker(pytest.mark.skip(f"not on Ray: {reason}"))
