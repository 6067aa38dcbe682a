"""`poolshift programs`."""

import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import termios
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import SCRIPT, Poolshift, lines
from tests.support.service import Service, running_service


def definition(**more: Any) -> dict[str, Any]:
    """A program that gives back what it gets, of one input and output for each type that needs care."""
    return {
        "id": f"program-{uuid.uuid4().hex}",
        "program_type": "python",
        "entrypoint": "examples.text:keywords",
        "signature": {
            "inputs": [{"name": "text", "type": "string"}, {"name": "limit", "type": "integer", "default": 5}],
            "outputs": [{"name": "result", "type": "array"}],
        },
        **more,
    }


def write(directory: Path, program: dict[str, Any], name: str = "program.json") -> Path:
    path = directory / name
    path.write_text(yaml.safe_dump(program) if path.suffix == ".yaml" else json.dumps(program))
    return path


@pytest.fixture
def program(operator: Poolshift, tmp_path: Path) -> str:
    """The id of a program that was created by the command."""
    program_id: str = operator.json("programs", "create", write(tmp_path, definition()))["id"]
    return program_id


@pytest.mark.parametrize("name", ["program.json", "program.yaml", "-"])
def test_a_program_comes_from_a_file_or_from_standard_input(
    operator: Poolshift, service: Service, tmp_path: Path, name: str
) -> None:
    """The service has the program as it was created."""
    wanted = definition(instructions="Line one.\nLine two.")
    if name == "-":
        created = operator.json("programs", "create", "-", stdin=json.dumps(wanted))
    else:
        created = operator.json("programs", "create", write(tmp_path, wanted, name))
    assert created == service.client.get(f"/programs/{wanted['id']}").json()
    assert created["instructions"] == wanted["instructions"]


def test_show_has_a_line_for_each_member_that_is_set(operator: Poolshift, tmp_path: Path) -> None:
    """Also for those that it does not know by name; one with its default has none."""
    members = {"timeout_s": 2.5, "metrics": True}
    program = operator.json("programs", "create", write(tmp_path, definition(**members)))["id"]
    shown = lines(operator.succeeds("programs", "show", program))
    assert ["timeout_s", "2.5"] in shown
    assert "metrics" in [line[0] for line in shown]
    assert not {"max_concurrency", "memory_mb", "tools"} & {line[0] for line in shown}


def test_list_show_run_delete(operator: Poolshift, program: str) -> None:
    """A program's life."""
    answer = operator.json("programs", "run", program, "--input", "text=pool pool worker", "--input", "limit=1")
    assert answer["outputs"] == {"result": ["pool"]}
    shown = operator.json("programs", "show", program)
    assert (shown["id"], shown["execution_count"]) == (program, 1)
    assert shown in operator.json("programs", "list")
    assert ["executions", "1"] in lines(operator.succeeds("programs", "show", program))
    assert [program, "python", "examples.text:keywords", "1"] in [
        line[:4] for line in lines(operator.succeeds("programs", "list"))
    ]
    assert operator.json("programs", "delete", program) == {"deleted": program}
    assert operator.fails(1, "programs", "show", program).startswith("program_not_found: ")
    assert operator.fails(1, "programs", "delete", program).startswith("program_not_found: ")


def test_the_id_is_taken(operator: Poolshift, tmp_path: Path, program: str) -> None:
    """Exit code 4: who deploys twice can tell that from a definition that is wrong."""
    path = write(tmp_path, definition(id=program))
    assert operator.fails(4, "programs", "create", path).startswith("program_exists: ")
    wrong = write(tmp_path, definition(entrypoint="examples.text:no_such_function"))
    assert operator.fails(1, "programs", "create", wrong).startswith("invalid_request: body.entrypoint: ")


def test_inputs(operator: Poolshift, program: str) -> None:
    """A string is taken as it stands, whatever it looks like; other types are JSON; `--input` wins over `--inputs`."""

    def run(*arguments: str, stdin: str = "") -> Any:
        return operator.json("programs", "run", program, *arguments, stdin=stdin)["outputs"]["result"]

    assert run("--input", 'text={"pool": "worker=engine"}') == ["pool", "worker", "engine"]
    assert run("--inputs", '{"text": "pool worker", "limit": 1}') == ["pool"]
    assert run("--inputs", '{"text": "pool worker", "limit": 1}', "--input", "limit=2") == ["pool", "worker"]
    assert run("--inputs", "-", stdin='{"text": "pool"}') == ["pool"]
    complaint = operator.fails(2, "programs", "run", program, "--input", "text=a", "--input", "limit=one")
    assert complaint.startswith("Invalid value for --input limit (integer): this is no JSON")
    assert operator.fails(2, "programs", "run", program, "--input", "text").startswith("Invalid value for --input: ")
    assert operator.fails(1, "programs", "run", program).startswith("invalid_inputs: ")
    assert operator.fails(1, "programs", "run", program, "--input", "text=a", "--input", "other=b").startswith(
        "invalid_inputs: "
    )


def test_outputs_for_people(operator: Poolshift, program: str) -> None:
    """The outputs are on standard output; which version ran it, and how long it took, is beside them."""
    ended = operator("programs", "run", program, "--input", "text=pool worker", "--pool-version", "v2")
    assert lines(ended.stdout) == [["result", '["pool",', '"worker"]']]
    assert ended.stderr.startswith("ran on v2 in ")


def test_a_sessions_programs(operator: Poolshift, service: Service, tmp_path: Path) -> None:
    """`--session` is whose program it is, in each command."""
    session = f"session-{uuid.uuid4().hex}"
    program = operator.json("programs", "create", write(tmp_path, definition(session_id=session)))["id"]
    assert operator.fails(1, "programs", "show", program).startswith("program_not_found: ")
    assert operator.json("programs", "show", program, "--session", session)["session_id"] == session
    assert [found["id"] for found in operator.json("programs", "list", "--session", session)] == [program]
    ran = operator.json("programs", "run", program, "--session", session, "--input", "text=pool", "--input", "limit=1")
    assert ran["outputs"] == {"result": ["pool"]}
    operator.json("programs", "delete", program, "--session", session)
    assert operator.json("programs", "list", "--session", session) == []


def test_a_program_that_fails(operator: Poolshift, service: Service) -> None:
    """The message is on one line and cannot steer the terminal."""
    program = service.create("fail", {"message": "string"})
    complaint = operator.fails(1, "programs", "run", program, "--input", "message=one\ntwo\x1b[31m")
    assert complaint.startswith("program_error: ")
    assert r"one\ntwo\x1b[31m" in complaint


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("program.json", "{", "Expecting property name"),
        ("program.json", "[]", "a program is a JSON object"),
        ("program.json", '{"id": NaN}', "Out of range float values are not JSON compliant"),
        ("program.yaml", "id: [", "while parsing"),
        ("program.yaml", "id: 2026-01-01", "not JSON serializable"),
        ("program.json", b"\xff", "can't decode byte"),
    ],
)
def test_a_file_that_is_no_program(
    operator: Poolshift, tmp_path: Path, name: str, content: str | bytes, complaint: str
) -> None:
    """Exit code 2 and the name of the file."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = operator.fails(2, "programs", "create", path)
    assert said.startswith(f"{path}: ")
    assert complaint in said


def test_an_id_is_one_segment_of_a_path(operator: Poolshift) -> None:
    """Whatever is in it: no id reaches another resource."""
    assert operator.fails(1, "programs", "show", "../rollout").startswith("not_found: ")
    assert operator.fails(1, "programs", "show", "a?b#c").startswith("program_not_found: ")


def test_back_again(operator: Poolshift, service: Service, tmp_path: Path) -> None:
    """A deletion says how to undo it; a program comes back, and goes back to a revision."""
    wanted = definition()
    program = operator.json("programs", "create", write(tmp_path, wanted))["id"]
    deleted = operator.succeeds("programs", "delete", program)
    (deletion,) = operator.json("programs", "deletions", program)
    restore = f"poolshift programs restore {program} --deletion {deletion['deletion']}"
    assert restore in deleted
    assert [str(deletion["deletion"]), "1", "-"] in [
        line[:3] for line in lines(operator.succeeds("programs", "deletions", program))
    ]
    assert operator.json(*shlex.split(restore)[1:])["revision"] == 1
    assert operator.fails(4, "programs", "restore", program).startswith("program_exists: ")
    service.client.put(f"/programs/{program}", json={**wanted, "instructions": "worse"})
    back = operator.json("programs", "restore", program, "--revision", 1, "--reason", "worse")
    assert (back["revision"], back["instructions"]) == (3, None)
    assert "no revision 9" in operator.fails(1, "programs", "restore", program, "--revision", 9)
    refused = operator.fails(1, "programs", "delete", program, "--session", "another")
    assert "the global program of this id" in refused
    assert service.client.get(f"/programs/{program}").status_code == 200


def test_v2s_own_definition_is_shown_promoted_and_demoted(
    operator: Poolshift, service: Service, tmp_path: Path
) -> None:
    """`show` says how V2's own definition differs; a promotion amid a ramp takes --force and a reason."""
    wanted = definition(instructions="Of everyone.")
    program = operator.json("programs", "create", write(tmp_path, wanted))["id"]
    assert "V2 runs" not in operator.succeeds("programs", "show", program)
    own = {**wanted, "instructions": "Of V2."}
    assert service.client.put(f"/programs/{program}?pool_version=v2", json=own).is_success
    shown = operator.succeeds("programs", "show", program)
    assert "V2 runs    its own definition, revision 1 by anonymous at " in shown
    assert [line.strip() for line in shown.splitlines()[-3:]] == ["instructions", '- "Of everyone."', '+ "Of V2."']
    assert "100 %" in operator.fails(4, "programs", "promote", program)
    assert "needs a reason" in operator.fails(1, "programs", "promote", program, "--force")
    promoted = operator.json("programs", "promote", program, "--force", "--reason", "sure")
    assert (promoted["instructions"], promoted["v2"]) == ("Of V2.", None)
    demoted = operator.json("programs", "demote", program, "--reason", "worse")
    assert (demoted["instructions"], demoted["v2"]["instructions"]) == ("Of everyone.", "Of V2.")
    assert operator.fails(1, "programs", "demote", program).startswith("rollback_impossible: ")
    told = operator.succeeds("programs", "promote", program, "--force", "--reason", "sure")
    assert told.splitlines()[-1].split(maxsplit=1) == ["undo", f"poolshift programs demote {program}"]


def test_v2s_own_definition_that_was_deleted_comes_back(operator: Poolshift, service: Service, tmp_path: Path) -> None:
    """By the commands that its deletion tells; jq(1) stands between them."""
    wanted = definition()
    program = operator.json("programs", "create", write(tmp_path, wanted))["id"]
    assert service.client.put(
        f"/programs/{program}?pool_version=v2", json={**wanted, "instructions": "Of V2."}
    ).is_success
    told = operator.succeeds("programs", "delete", program, "--pool-version", "v2", "--yes")
    _, _, undo = told.partition("undo")
    read, pick, write_back = (shlex.split(command) for command in undo.strip().split(" | "))
    assert pick == ["jq", f'.[0].definition + {{"id": "{program}"}}']
    (newest,) = operator.json(*read[1:-1])
    operator.succeeds(*write_back[1:], stdin=json.dumps(newest["definition"] | {"id": program}))
    assert service.client.get(f"/programs/{program}").json()["v2"]["instructions"] == "Of V2."


def test_a_deletion_without_a_grace_period_has_no_undo(poolshift: Poolshift, tmp_path: Path) -> None:
    """So the command promises none."""
    (tmp_path / "final").mkdir()
    with running_service(tmp_path / "final", PROGRAM_GRACE_S=0) as service:
        operator = poolshift.at(service.url)
        program = operator.json("programs", "create", write(tmp_path, definition()))["id"]
        told = operator.succeeds("programs", "delete", program)
        assert "none: PROGRAM_GRACE_S=0 makes each deletion final" in told


@pytest.mark.parametrize(
    ("answer", "exit_code"),
    [("n\n", 1), ("\n", 1), ("maybe\n", 1), ("\x04", 1), ("\x03", 130), ("y\n", 0), ("YES\n", 0)],
    ids=["n", "Enter", "another word", "Ctrl-D", "Ctrl-C", "y", "yes"],
)
def test_a_terminal_is_asked_before_a_deletion(
    operator: Poolshift, service: Service, program: str, answer: str, exit_code: int
) -> None:
    """Nothing is deleted but after a yes, and that is said without a traceback; a pipe is asked nothing."""
    own, terminal = pty.openpty()
    try:
        process = subprocess.Popen(
            [SCRIPT, "programs", "delete", program],
            cwd=operator.directory,
            env=operator.environment,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_has_terminal,  # noqa: PLW1509 - no lock is taken there
        )
        assert process.stderr is not None
        question = f"Delete the program {program}? [y/N]: "
        assert process.stderr.read(len(question)) == question
        os.write(own, answer.encode())
        output, told = process.communicate(timeout=60)
    finally:
        os.close(own)
        os.close(terminal)
    assert process.returncode == exit_code
    assert ("deleted" in output) is (exit_code == 0)
    assert told.endswith("poolshift: nothing was deleted\n") is (exit_code != 0)
    assert "Traceback" not in told
    assert (service.client.get(f"/programs/{program}").status_code == 200) is (exit_code != 0)


def _has_terminal() -> None:
    """Makes standard input the terminal that Ctrl-C comes from."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
