"""The records of the migration: validations, confirmations, the use of each version, the announced end of V1."""

from dataclasses import dataclass

from routing.migration.store import MigrationStore
from routing.migration.sunset import Sunset
from routing.migration.usage import Usage


@dataclass(frozen=True, slots=True)
class MigrationRecords:
    """The store of validations and confirmations, the calls by day, and the announced end of V1 if there is one."""

    store: MigrationStore
    usage: Usage
    sunset: Sunset | None
