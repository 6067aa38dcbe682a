"""Reads an answer of `/metrics`: the one reader of all commands that need a figure of it."""

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

STARTED: Final = "process_start_time_seconds"
"""The start of the process that has answered: no two replicas have the same."""


class Scrape:
    """The samples of one answer of one replica."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))
        self._samples: list[Sample] = [sample for family in self._families for sample in family.samples]

    @property
    def replica(self) -> float:
        """A number that tells this replica from others, and from itself before a restart."""
        return self.total(STARTED)

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
