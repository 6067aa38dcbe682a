"""The panels of the canary's dashboard and the judge's guardrails."""

from analysis.guardrails import GUARDRAILS, Action
from dashboards.canary import ROLLING_BACK


def test_every_guardrail_that_rolls_back_has_a_panel() -> None:
    """In the order in which the judge has them."""
    assert list(ROLLING_BACK) == [one.name for one in GUARDRAILS if one.action is Action.ROLLBACK]
