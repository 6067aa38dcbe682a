"""The OpenAPI document against the service, by schemathesis: what is not in the document does not happen."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.test_errors import crashes
from tests.service.test_faults import whole
from tests.support.documented import document
from tests.support.service import Service
from tests.support.waiting import wait_until

# A service that is asked for nothing but nonsense has no reason to answer 5xx.
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
DOCUMENT = schemathesis.openapi.from_dict(document())
OPERATIONS = [result.ok() for result in DOCUMENT.get_all_operations() if isinstance(result, Ok)]
STARTS_WORKERS = {
    "POST /pools/reload",
    "POST /pools/{version}/reload",
    "POST /rollout/rotate",
    "POST /rollout/unrotate",
}
"""Operations that replace all workers each time that they are asked for."""
TRIES_AN_LM = {"PUT /lm", "PUT /sessions/{session_id}/lm"}
"""Operations that answer 502 if an LM that is to be tried does not answer: no LM has the name of an example."""


@pytest.fixture
def service(shared_service: Service) -> Service:
    """A service with a program of a name that the generator may hit upon."""
    fields = {"inputs": [{"name": "text", "type": "string"}], "outputs": [{"name": "keywords", "type": "array"}]}
    program = {"id": "0", "program_type": "python", "entrypoint": "examples.text:keywords", "signature": fields}
    shared_service.client.post("/programs", json=program)
    return shared_service


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_answer_is_documented(
    operation: APIOperation[Any, Any, Any, Any], service: Service, version: str
) -> None:
    """No undocumented status, content type or body, no 5xx, and no worker lost, whatever is asked."""

    examples = 5 if operation.label in STARTS_WORKERS | TRIES_AN_LM else 25
    checks = [check for check in CHECKS if check is not not_a_server_error or operation.label not in TRIES_AN_LM]

    @settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        case = data.draw(operation.as_strategy())
        case.validate_response(case.call(base_url=service.url), checks=checks)

    before = crashes(service)
    ask()
    assert crashes(service) <= before  # a rotation counts anew
    wait_until(lambda: whole(service, version), "no worker is lost, once those of a rotation have started")
