"""The conformance tests that a validation runs: either version passes them."""

import pytest

from cli.validation.conformance import CASES, Target
from tests.support.service import Service


@pytest.mark.parametrize("case", CASES)
def test_a_version_conforms(shared_service: Service, version: str, case: str) -> None:
    """The same cases as in `poolshift migration validate`, which users run against their own pools."""
    CASES[case](Target(shared_service.client, version))
