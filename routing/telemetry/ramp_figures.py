"""The ramp and its evidence at the moment of a scrape, as Prometheus families."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analysis.verdict import Row
from routing.rollout.ramp import JUDGE, Ramp, RampState
from routing.versions import Version

MAX_AGE_S: Final = 1.0
"""Seconds that a scrape's evidence may be old: several scrapers share one computation."""


class RampFigures(Collector):
    """Gauges over the rows of the judge: the endpoint of a scrape updates them first, since the rows take a while."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: Sequence[Row] = ()
        self._ramp = Ramp()
        self._calls: Mapping[Version, int] = {}
        registry.register(self)

    def update(self, rows: Sequence[Row], ramp: Ramp, calls: Mapping[Version, int]) -> None:
        """Takes what the next scrape shows; `calls` are those that the judge of this replica has counted.

        A version that does not run is not among them.
        """
        self._rows, self._ramp, self._calls = rows, ramp, calls

    def collect(self) -> Iterable[Metric]:
        yield self._by_guardrail(
            "judge_log_e_value",
            "Natural logarithm of the e-value against V2; at the threshold the guardrail acts.",
            {row.name: row.log_e for row in self._rows},
        )
        yield self._by_guardrail(
            "judge_threshold",
            "Logarithm of the e-value at which the guardrail acts.",
            {row.name: row.threshold for row in self._rows},
        )
        yield self._by_guardrail(
            "judge_ratio_lower",
            "Lower end of the always-valid interval of V2's rate (or time) over V1's.",
            {row.name: row.ratio[0] for row in self._rows},
        )
        yield self._by_guardrail(
            "judge_ratio_upper",
            "Upper end of that interval; +Inf while there is no upper bound.",
            {row.name: math.inf if row.ratio[1] is None else row.ratio[1] for row in self._rows},
        )
        yield self._by_guardrail(
            "judge_rolled_back",
            "1 for the guardrail on whose evidence the ramp is rolled back, until the next start of a plan.",
            {row.name: float(row.name == self._decided_by()) for row in self._rows},
        )
        states = GaugeMetricFamily("poolshift_rollout_state", "State of the ramp: 1 for the current.", labels=["state"])
        for state in RampState:
            states.add_metric([state], float(state is self._ramp.state))
        yield states
        yield GaugeMetricFamily(
            "poolshift_rollout_step", "Step of the plan, from 1; 0 before the first.", value=self._ramp.step + 1
        )
        calls = CounterMetricFamily(
            "poolshift_judge_calls", "Organic calls that are part of the evidence.", labels=["pool_version"]
        )
        for version, count in self._calls.items():
            calls.add_metric([version], count)
        yield calls

    def _decided_by(self) -> str | None:
        """The guardrail that has rolled the ramp back. Its name is the beginning of the reason, in memory and store."""
        ramp = self._ramp
        if ramp.state is not RampState.ROLLED_BACK or ramp.by != JUDGE or ramp.reason is None:
            return None
        return ramp.reason.partition(":")[0]

    def _by_guardrail(self, name: str, documentation: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(f"poolshift_{name}", documentation, labels=["guardrail"])
        for guardrail, value in values.items():
            family.add_metric([guardrail], value)
        return family
