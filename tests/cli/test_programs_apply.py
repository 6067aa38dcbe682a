"""`poolshift programs apply`: the service's programs become those of a folder, and a second time changes nothing."""

import concurrent.futures
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Poolshift
from tests.cli.test_programs import definition
from tests.support.service import Service, free_port

WRONG: dict[str, tuple[str | bytes, int | None, str]] = {
    "a key twice.yaml": ("id: a\nid: b\n", 2, "the key 'id' is there twice"),
    "a key twice.json": ('{"id": "a",\n "id": "b"}', None, "the key 'id' is there twice"),
    "a date.yaml": ("id: a\ninstructions: 2026-01-01\n", 2, "has no JSON"),
    "a number.yaml": ("id: a\nstate: {a: .nan}\n", 2, "has no JSON"),
    "a number.json": ('{"id": NaN}', None, "NaN has no JSON"),
    "a bracket.yaml": ("id: a\nstate: [\n", 3, "expected the node content"),
    "a bracket.json": ('{"id": "a",\n', 2, "Expecting property name"),
    "a list of texts.yaml": ("- id: a\n- b\n", 2, "a program is an object"),
    "no text.yaml": (b"\xff", None, "can't decode byte"),
    "no id.yaml": ("\n# a comment\nprogram_type: python\n", 3, "a program needs an id"),
    "a number as a key.yaml": ("id: a\nstate:\n  1: a\n", 3, "the key 1 is not text"),
    "deep.json": ("[" * 100_000, None, "nested too deeply"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of programs, and nothing else."""
    folder = tmp_path / "programs"
    folder.mkdir()
    return folder


def write(file: Path, *programs: dict[str, Any]) -> None:
    """JSON, or YAML with a document for each program."""
    file.parent.mkdir(exist_ok=True, parents=True)
    text = json.dumps(list(programs), indent=1) if file.suffix == ".json" else yaml.safe_dump_all(programs)
    file.write_text(text)


def told(output: str) -> list[list[str]]:
    """The first two words of each line for a program."""
    return [line.split()[:2] for line in output.splitlines() if not line.startswith(" ")]


def test_a_folder_is_applied_and_again(operator: Poolshift, service: Service, folder: Path) -> None:
    """All files in all folders, sorted, but hidden ones; a second time, and a dry run before, change nothing."""
    programs = [definition() for _ in range(5)]
    write(folder / "b.yaml", *programs[1:3])
    write(folder / "a" / "one.yml", programs[0])
    write(folder / "c.json", *programs[3:])
    write(folder / ".github" / "workflow.yml", {"on": "push"})
    (folder / "README.md").write_text("no program")
    (folder / "empty.yaml").write_text("---\n")
    ids = [program["id"] for program in programs]
    tried = operator.succeeds("programs", "apply", folder, "--dry-run")
    assert told(tried)[:-1] == [["created", one] for one in ids]
    assert tried.endswith("dry run, nothing is changed: 5 created, 0 updated, 0 unchanged, 0 failed\n")
    assert service.client.get(f"/programs/{ids[0]}").status_code == 404
    applied = operator.succeeds("programs", "apply", folder)
    assert told(applied)[:-1] == [["created", one] for one in ids]
    for _ in range(2):
        again = operator.succeeds("programs", "apply", folder)
        assert told(again)[:-1] == [["unchanged", one] for one in ids]
        assert again.endswith("\n0 created, 0 updated, 5 unchanged, 0 failed\n")
    assert {service.client.get(f"/programs/{one}").json()["revision"] for one in ids} == {1}


def test_a_change_is_shown(operator: Poolshift, service: Service, folder: Path) -> None:
    """Each member that changes, before and after, alike in a dry run; lines of text one by one; nothing else."""
    program = definition(instructions="One.\nTwo.\nThree.")
    write(folder / "a.yaml", program)
    operator.succeeds("programs", "apply", folder)
    service.execute(program["id"], inputs={"text": "a"})
    inputs = [
        {"name": "limit", "type": "integer", "default": 7},
        {"name": "text", "type": "string"},
        {"name": "more", "type": "array", "required": False},
    ]
    signature = {**program["signature"], "inputs": inputs}
    changed = {**program, "instructions": "One.\n2.\nThree.", "idempotent": True, "signature": signature}
    changed["entrypoint"] = "tests.support.programs:keyword_count"
    changed["signature"]["outputs"] = [{"name": "result", "type": "integer"}]
    write(folder / "a.yaml", changed)
    (dry,) = operator.json("programs", "apply", folder, "--dry-run")
    shown = operator.succeeds("programs", "apply", folder, "--dry-run")
    (done,) = operator.json("programs", "apply", folder)
    assert done == dry
    assert (done["result"], done["revision"], done["errors"]) == ("updated", 2, [])
    assert {change["member"]: (change["before"], change["after"]) for change in done["changes"]} == {
        "signature.inputs": (["text", "limit"], ["limit", "text", "more"]),
        "signature.inputs.limit.default": (5, 7),
        "signature.inputs.more.type": (None, "array"),
        "signature.inputs.more.required": (None, False),
        "signature.outputs.result.type": ("array", "integer"),
        "entrypoint": ("examples.text:keywords", "tests.support.programs:keyword_count"),
        "instructions": (program["instructions"], changed["instructions"]),
        "idempotent": (False, True),
    }
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0] == f"updated    {program['id']} (revision 2, dry run)"
    at = lines.index("instructions")
    assert [lines[at + 1], *sorted(lines[at + 2 : at + 4]), lines[at + 4]] == ["One.", "+ 2.", "- Two.", "Three."]
    assert [lines[lines.index("signature.inputs.limit.default") + step] for step in (1, 2)] == ["- 5", "+ 7"]
    assert service.client.get(f"/programs/{program['id']}").json()["execution_count"] == 1


def test_a_saved_state_that_changes(operator: Poolshift, folder: Path) -> None:
    """A view does not have it, and it may be long: the change names it."""
    signature = {"inputs": [{"name": "a", "type": "string"}], "outputs": [{"name": "b", "type": "string"}]}
    program = {"id": f"state-{uuid.uuid4().hex}", "program_type": "predict", "signature": signature}
    fields = [{"prefix": f"{name}:", "description": "d"} for name in "ab"]

    def state(text: str) -> dict[str, Any]:
        return {"demos": [{"a": text, "b": "c"}], "signature": {"instructions": "i", "fields": fields}}

    said = []
    for number, more in enumerate([{}, {"state": state("1")}, {"state": state("1")}, {"state": state("2")}, {}]):
        write(folder / "a.json", {**program, **more, "instructions": "late" if number == 3 else None})
        (outcome,) = operator.json("programs", "apply", folder)
        said.append((outcome["result"], [(one["member"], one["before"], one["after"]) for one in outcome["changes"]]))
    assert said == [
        ("created", []),
        ("updated", [("state", None, "a saved state")]),
        ("unchanged", []),
        ("updated", [("instructions", None, "late"), ("state", "the saved state", "another saved state")]),
        ("updated", [("instructions", "late", None), ("state", "the saved state", None)]),
    ]


def test_a_session_of_its_own(operator: Poolshift, service: Service, folder: Path) -> None:
    """Named on the command line or by the document: the session's program is created, the global one untouched."""
    program = definition()
    write(folder / "a.yaml", program)
    operator.succeeds("programs", "apply", folder)
    session = f"session-{uuid.uuid4().hex}"
    (outcome,) = operator.json("programs", "apply", folder, "--session", session)
    assert (outcome["result"], outcome["session_id"]) == ("created", session)
    write(folder / "a.yaml", {**program, "session_id": session, "instructions": "its own"})
    (outcome,) = operator.json("programs", "apply", folder)
    assert (outcome["result"], outcome["session_id"]) == ("updated", session)
    assert service.client.get(f"/programs/{program['id']}").json()["revision"] == 1
    ended = operator("programs", "apply", folder, "--session", "another")
    assert ended.returncode == 1
    assert f"a.yaml:{_line_of(folder / 'a.yaml', 'session_id')}: " in ended.stderr


@pytest.mark.parametrize("name", ["many.yaml", "many.json"])
def test_a_refused_document_is_named_and_nothing_is_changed(
    operator: Poolshift, service: Service, folder: Path, name: str
) -> None:
    """Each error has the line and the member, of all documents; none of the good ones is applied."""
    good, worse, bad, missing, last = (definition() for _ in range(5))
    bad["signature"] = {"inputs": [{"name": "text", "type": "string"}, {"name": "a", "type": "text"}], "outputs": 1}
    worse["surprise"] = 1
    missing["entrypoint"] = "examples.text:missing"
    write(folder / name, good, worse, bad, missing, last, good)
    ended = operator("programs", "apply", folder)
    assert ended.returncode == 1
    file = folder / name
    errors = ended.stderr.splitlines()
    expected = [
        (_line_of(file, "surprise"), "invalid_request: surprise: "),
        (_line_of(file, "text", last=True, after="type"), "invalid_request: signature.inputs.1.type: "),
        (_line_of(file, "outputs", value="1"), "invalid_request: signature.outputs: "),
        (_line_of(file, "entrypoint", value="examples.text:missing"), "invalid_request: entrypoint: "),
        (_line_of(file, "id", last=True), f"the program '{good['id']}' is at {file}:"),
    ]
    for (line, text), error in zip(expected, errors, strict=True):
        assert error.startswith(f"poolshift: {file}:{line}: {text}"), error
    summary = "nothing is changed: 0 created, 0 updated, 0 unchanged, 4 failed, 2 skipped\n"
    assert ended.stdout.endswith(summary)
    for one in (good, last):
        assert service.client.get(f"/programs/{one['id']}").status_code == 404


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_program(operator: Poolshift, service: Service, folder: Path, name: str) -> None:
    """The file and the line; no program of another file is applied."""
    content, line, says = WRONG[name]
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    good = definition()
    write(folder / "z.yaml", good)
    ended = operator("programs", "apply", folder, "--json")
    assert ended.returncode == 1
    place = f"{folder / name}:{line}" if line else f"{folder / name}"
    (error,) = [one for one in ended.stderr.splitlines() if says in one]
    assert error.startswith(f"poolshift: {place}: "), error
    outcomes = json.loads(ended.stdout)
    assert (outcomes[-1]["id"], outcomes[-1]["result"]) == (good["id"], "skipped")
    assert "failed" in {one["result"] for one in outcomes}
    assert service.client.get(f"/programs/{good['id']}").status_code == 404


def test_a_link_to_nowhere(operator: Poolshift, folder: Path) -> None:
    """Told like a file that cannot be read, and not left out."""
    (folder / "linked.yaml").symlink_to(folder / "missing")
    write(folder / "z.yaml", definition())
    ended = operator("programs", "apply", folder)
    assert (ended.returncode, ended.stderr) == (1, f"poolshift: {folder / 'linked.yaml'}: No such file or directory\n")
    assert ended.stdout.endswith("nothing is changed: 0 created, 0 updated, 0 unchanged, 1 failed, 1 skipped\n")


def test_commands_at_once(operator: Poolshift, service: Service, folder: Path) -> None:
    """Each finds the same files: none fails because another one was first, and each program has one revision."""
    programs = [definition() for _ in range(10)]
    write(folder / "a.yaml", *programs)
    with concurrent.futures.ThreadPoolExecutor(3) as commands:
        running = [commands.submit(operator.json, "programs", "apply", folder) for _ in range(3)]
        results = [[outcome["result"] for outcome in one.result()] for one in running]
    assert {result for one in results for result in one} <= {"created", "unchanged"}
    assert {service.client.get(f"/programs/{one['id']}").json()["revision"] for one in programs} == {1}


def test_standard_input(operator: Poolshift) -> None:
    """YAML, of which JSON is a part."""
    program = definition()
    for result in ("created", "unchanged"):
        (outcome,) = operator.json("programs", "apply", "-", stdin=json.dumps(program))
        assert (outcome["result"], outcome["place"]) == (result, "-:1")


def test_usage(operator: Poolshift, folder: Path, tmp_path: Path) -> None:
    """A path that is missing, or has no program in it, ends the command before anything is asked of the service."""
    assert operator.fails(2, "programs", "apply", tmp_path / "missing").endswith("no such file or folder")
    assert "the folder has no file" in operator.fails(2, "programs", "apply", folder)
    elsewhere = operator.at(f"http://127.0.0.1:{free_port()}")
    for number in range(3):
        write(folder / f"{number}.yaml", definition())
    elsewhere.fails(3, "programs", "apply", folder)


@pytest.mark.parametrize("program_id", ["..", "a/b", "", "a b", "ä"])
def test_an_id_is_one_segment_of_a_path(operator: Poolshift, folder: Path, program_id: str) -> None:
    """Whatever is in it: it reaches no other resource, and the error has its line."""
    write(folder / "a.yaml", definition(id=program_id))
    ended = operator("programs", "apply", folder)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"poolshift: {folder / 'a.yaml'}:")


def _line_of(file: Path, key: str, *, value: str = "", after: str = "", last: bool = False) -> int:
    """The line of a key, with this value; or of a value after the key `after`."""
    wanted = f"{after}: {key}" if after else f"{key}: {value}"
    lines = [line.replace('"', "") for line in file.read_text().splitlines()]
    found = [number for number, line in enumerate(lines, 1) if wanted in f"{line} "]
    return found[-1 if last else 0]


def test_v2s_own_definition(operator: Poolshift, service: Service, folder: Path) -> None:
    """V1's stays as it is; the other commands show it, list it and take it back."""
    program, of_v2 = definition(), "--pool-version=v2"
    write(folder / "p.yaml", program)
    assert "V1 has no program" in operator("programs", "apply", folder, of_v2).stderr
    operator.succeeds("programs", "apply", folder)
    write(folder / "p.yaml", program | {"instructions": "Of V2."})
    assert told(operator("programs", "apply", folder, of_v2).stdout)[0] == ["created", program["id"]]
    assert told(operator("programs", "apply", folder, of_v2).stdout)[0] == ["unchanged", program["id"]]
    write(folder / "p.yaml", program | {"instructions": "Of V2, again."})
    changed = operator("programs", "apply", folder, of_v2).stdout
    assert told(changed)[0] == ["updated", program["id"]]
    assert '- "Of V2."' in changed
    shown = service.client.get(f"/programs/{program['id']}").json()
    assert (shown["instructions"], shown["v2"]["instructions"]) == (None, "Of V2, again.")
    assert "Of V2, again." in operator("programs", "show", program["id"], of_v2).stdout
    revisions = operator.json("programs", "revisions", program["id"], of_v2)
    assert [one["definition"]["instructions"] for one in revisions] == ["Of V2, again.", "Of V2."]
    operator.succeeds("programs", "delete", program["id"], of_v2)
    assert service.client.get(f"/programs/{program['id']}").json()["v2"] is None
