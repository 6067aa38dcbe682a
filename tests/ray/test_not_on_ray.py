"""The list of tests that the suite on Ray leaves out."""

import pytest

from tests.ray.not_on_ray import NOT_ON_RAY
from tests.support.service import ROOT


@pytest.mark.parametrize("name", NOT_ON_RAY)
def test_each_is_a_test(name: str) -> None:
    """A test that is renamed would be run again without a word."""
    file, _, function = name.partition("::")
    assert f"\ndef {function.partition('[')[0]}(" in (ROOT / "tests" / file).read_text()
