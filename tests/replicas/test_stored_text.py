"""PostgreSQL refuses more text than SQLite does: none of it gets that far."""

from pathlib import Path

from tests.replicas.conftest import Postgres
from tests.service.test_hostile_text import check_bodies, check_parameters
from tests.support.hostile import BODY_TEXTS, OPERATIONS
from tests.support.service import running_service


def test_no_text_is_a_fault_of_the_database(postgres: Postgres, tmp_path: Path) -> None:
    """Every operation is tried with what PostgreSQL cannot hold; the rollout can be changed afterwards."""
    with running_service(tmp_path, DATABASE_URL=postgres.url) as service:
        for method, path in OPERATIONS:
            for text in BODY_TEXTS.values():
                check_parameters(service, method, path, text)
                check_bodies(service, method, path, text)
        changed = service.client.patch("/rollout", json={"canary_percent": 1, "reason": "afterwards"})
        assert changed.status_code == 200, changed.text
