"""Reads an answer of `/metrics`: the one reader of all commands that need a figure of it."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

STARTED: Final = "process_start_time_seconds"
"""The start of a replica's process."""
REPLICA: Final = "replica"
"""The label that tells the replicas of one machine apart."""


class ReplicaRun(NamedTuple):
    """A replica from its start to its end: no two have the same number and start."""

    number: str | None
    """None if it is the only one of its machine."""
    started: float

    @property
    def labels(self) -> dict[str, str]:
        """The labels that all of its series have."""
        return {} if self.number is None else {REPLICA: self.number}


class Scrape:
    """The samples of one answer, of all replicas of one machine."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))
        self._samples: list[Sample] = [sample for family in self._families for sample in family.samples]

    @property
    def replicas(self) -> list[ReplicaRun]:
        """The replicas that have answered."""
        started = [sample for sample in self._samples if sample.name == STARTED]
        return [ReplicaRun(sample.labels.get(REPLICA), sample.value) for sample in started]

    @property
    def series(self) -> set[str]:
        """The names of all series, with their labels."""
        return {f"{sample.name}{sorted(sample.labels.items())}" for sample in self._samples}

    def versions(self) -> dict[str, set[str]]:
        """The versions that each family has series of."""
        found: dict[str, set[str]] = {}
        for family in self._families:
            named = {version for sample in family.samples if (version := sample.labels.get("pool_version"))}
            if named:
                found.setdefault(family.name, set()).update(named)
        return found

    def total(self, name: str, which: Callable[[Mapping[str, str]], bool] = lambda _: True, **labels: str) -> float:
        """Adds up the series of a name that have these labels, and that `which` takes."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items() and which(sample.labels)
        )
