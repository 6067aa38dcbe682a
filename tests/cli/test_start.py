"""Imports, the help, and mistakes on the command line."""

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.conftest import Poolshift
from tests.support.service import free_port

SERVER = {"alembic", "app", "fastapi", "pools", "routing", "sqlalchemy", "starlette", "store", "uvicorn"}
CLIENT = {
    "cli.keys",
    "cli.output",
    "cli.pools",
    "cli.programs.commands",
    "cli.rollout.commands",
    "cli.service",
    "httpx",
}


def imported(stderr: str) -> set[str]:
    """The modules that `python -X importtime` tells of."""
    prefix = "import time:"
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith(prefix)}


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["rollout", "get"], 3),
        (["programs", "list"], 3),
        (["pools"], 3),
        (["keys", "create", "--name", "a", "--scope", "execute"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_no_command_but_serve_imports_the_server(poolshift: Poolshift, arguments: list[str], exit_code: int) -> None:
    """They are quick to start: neither a web framework nor a database is loaded to ask a question over HTTP."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    ended = poolshift.at(nowhere)(*arguments, PYTHONPROFILEIMPORTTIME="1")
    assert ended.returncode == exit_code
    modules = imported(ended.stderr)
    assert "cli.main" in modules
    assert not {module for module in modules if module.partition(".")[0] in SERVER}


def test_serve_imports_nothing_of_the_other_commands(poolshift: Poolshift, tmp_path: Path) -> None:
    """`serve` starts as fast as it would alone: without HTTP client and tables."""
    missing = tmp_path / "no-such-file"
    ended = poolshift("serve", API_KEYS_FILE=str(missing), PYTHONPROFILEIMPORTTIME="1")
    assert ended.returncode == 2
    modules = imported(ended.stderr)
    assert "app.server" in modules
    assert not modules & CLIENT


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"PORT": "eighty"}, "PORT='eighty': "),
        ({"HOST": "0.0.0.0"}, "HOST=0.0.0.0 can be reached from outside"),
        ({"API_KEYS_FILE": "no-such-file"}, "API_KEYS_FILE=no-such-file: No such file or directory"),
        ({"SECRET_KEY_FILE": "no-such-key"}, "SECRET_KEY_FILE=no-such-key: No such file or directory"),
        ({"DATABASE_URL": "sqlite:///a.db"}, "DATABASE_URL: must begin with sqlite+aiosqlite:// or "),
    ],
    ids=str,
)
def test_serve_with_wrong_settings(poolshift: Poolshift, environment: dict[str, str], complaint: str) -> None:
    """One line that names the setting."""
    assert poolshift.fails(2, "serve", **environment).startswith(complaint)


@pytest.mark.parametrize("content", ["keys: !!bool foo", "keys:\n- name: 2026-02-30", "[" * 5000])
def test_serve_with_a_key_file_that_makes_no_sense(poolshift: Poolshift, tmp_path: Path, content: str) -> None:
    """One line that names the file."""
    path = tmp_path / "keys.yaml"
    path.write_text(content)
    complaint = poolshift.fails(2, "serve", API_KEYS_FILE=str(path))
    assert complaint.startswith(f"API_KEYS_FILE={path}: this is neither YAML nor JSON (")


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"DATABASE_URL": "postgresql+asyncpg://u:secret@127.0.0.1:1/x"}, "cannot open the database: "),
        ({"DATABASE_URL": "postgresql+asyncpg://u:secret@127.0.0.1:port/x"}, "DATABASE_URL is not a URL"),
        ({"DATABASE_URL": "sqlite+aiosqlite:////no/such/directory/x.db"}, "'/no/such/directory/x.db'"),
        ({"ROLLOUT_FLAG": "a", "ROLLOUT_FLAG_PROVIDER": "no:such"}, "No module named 'no'"),
    ],
    ids=str,
)
def test_serve_without_what_it_needs(poolshift: Poolshift, environment: dict[str, str], complaint: str) -> None:
    """One line says what could not be had, and not where in the code."""
    ended = poolshift("serve", LM_MODEL="none", PORT=str(free_port()), **environment)
    assert ended.returncode == 3
    errors = [line for line in ended.stderr.splitlines() if "[error" in line]
    assert complaint in errors[0]
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


def test_version(poolshift: Poolshift) -> None:
    """The version is the package's."""
    assert poolshift.succeeds("--version") == f"poolshift {version('poolshift')}\n"


def test_help_names_every_command(poolshift: Poolshift) -> None:
    """Commands that are imported late have help, too; without arguments the help is the answer to a mistake."""
    shown = poolshift.succeeds("--help")
    for command in ("serve", "rollout", "pools", "programs", "keys", "db", "migrate"):
        assert f"\n  {command} " in shown
    bare = poolshift()
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", shown)
    for command in ("get", "set", "rollback", "history"):
        assert f"\n  {command} " in poolshift.succeeds("rollout", "--help")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["bogus"], "No such command 'bogus' (see 'poolshift --help')"),
        (["rollout"], "Missing command (see 'poolshift rollout --help')"),
        (["rollout", "bogus"], "No such command 'bogus' (see 'poolshift rollout --help')"),
        (["rollout", "set"], "Missing argument 'PERCENT' (see 'poolshift rollout set --help')"),
        (["rollout", "set", "ten"], "Invalid value for 'PERCENT': "),
        (["rollout", "set", "100.01"], "Invalid value for 'PERCENT': "),
        (["rollout", "set", "nan"], "Invalid value for 'PERCENT': "),
        (["rollout", "set", "1", "--api-key", "psk_x"], "No such option: --api-key"),
        (["rollout", "rollback", "--in-flight", "kill"], "Invalid value for '--in-flight': "),
        (["rollout", "history", "--limit", "0"], "Invalid value for '--limit': "),
        (["rollout", "get", "--timeout", "0"], "Invalid value for '--timeout': "),
        (["pools", "v3"], "Invalid value for 'VERSION': "),
        (["programs", "show", ".."], "'..' is not an id"),
        (["programs", "run", "a", "--inputs", "{"], "Invalid value for --inputs: this is no JSON: "),
        (["programs", "run", "a", "--inputs", '{"a": NaN}'], "Invalid value for --inputs: this is no JSON: "),
        (["programs", "run", "a", "--inputs", "[]"], "Invalid value for --inputs: this is no JSON object"),
        (["programs", "create", "no-such-file"], "no-such-file: No such file or directory"),
        (["keys", "create", "--scope", "admin"], "Missing option '--name'"),
        (["keys", "create", "--name", "a"], "Missing option '--scope'"),
        (["keys", "create", "--name", "a", "--scope", "root"], "Invalid value for '--scope': "),
        (["keys", "create", "--name", "", "--scope", "admin"], "Invalid value for --name: "),
        (["keys", "list"], "Missing option '--file' (env var: 'API_KEYS_FILE')"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_on_the_command_line(poolshift: Poolshift, arguments: list[str], complaint: str) -> None:
    """Exit code 2, before anything is asked of a service: there is none here."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert poolshift.at(nowhere).fails(2, *arguments).startswith(complaint)
