"""The members of a program are the same in its definition, in the API and in the client."""

import msgspec

from app.api.programs.body import ProgramBody
from app.api.programs.resource import DefinitionView
from poolshift.client.programs import Definition as ClientDefinition
from poolshift.worker.definitions import Definition, Limits

MEMBERS = {*Definition.__struct_fields__, *Limits.__struct_fields__} - {"limits"}


def test_a_body_has_each_member_of_a_definition() -> None:
    """Only the two members that name the program come in addition."""
    assert ProgramBody.model_fields.keys() == MEMBERS | {"id", "session_id"}


def test_the_client_can_send_each_member() -> None:
    """The client's answers are compared in `tests/client/test_openapi_coverage.py`."""
    assert set(ClientDefinition.__struct_fields__) == ProgramBody.model_fields.keys()


def test_a_view_has_each_member_of_a_definition() -> None:
    """A view says of a state, which may be of hundreds of kilobytes, only that there is one."""
    assert DefinitionView.model_fields.keys() - {"revision", "has_state"} == MEMBERS - {"state"}


def test_a_new_member_changes_no_stored_definition() -> None:
    """Each member beside the first two has a default, so that a definition of a former release is read."""
    assert {field.name for field in msgspec.structs.fields(Definition) if field.required} == {
        "program_type",
        "signature",
    }
