"""A service with a key of each scope, and visitors of its console without a browser."""

import re
from pathlib import Path
from typing import Any

import httpx

from config.api_keys import KeyFile, Scope, StoredKey, hash_key, new_key
from tests.support.service import Service

OWN = {"sec-fetch-site": "same-origin"}
"""The header of a form that a page of the console itself sends."""


class Keys:
    """Keys of a service, in a file that can change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.of: dict[str, str] = {str(scope): new_key() for scope in Scope}
        self.write(*self.of)

    def write(self, *names: str) -> None:
        """Makes these keys valid, named after their scopes, and no others."""
        stored = [
            StoredKey(name=f"the {name}", hash=hash_key(self.of[name]), scopes=frozenset({Scope(name)}), owner="a team")
            for name in names
        ]
        fresh = self.path.with_suffix(".new")
        fresh.write_text(KeyFile(keys=tuple(stored)).model_dump_json())
        fresh.replace(self.path)

    def bearer(self, scope: str = "admin") -> dict[str, str]:
        """The header of an API call."""
        return {"authorization": f"Bearer {self.of[scope]}"}


def log_in(service: Service, key: str) -> httpx.Client:
    """A client with the session of a key, which sends what a browser sends."""
    client = httpx.Client(base_url=service.url, timeout=30, headers=OWN)
    answer = client.post("/console/login", data={"key": key})
    assert answer.status_code == 303, answer.text
    return client


def revision(client: httpx.Client) -> str:
    """The revision that the overview's forms carry."""
    found = re.search(r'name="revision" value="(\d+)"', client.get("/console").text)
    assert found is not None
    return found[1]


def program(
    service: Service, keys: Keys | None, program_id: str, function: str, inputs: dict[str, str], **more: Any
) -> None:
    """Creates a program on a function of `tests.support.programs`."""
    body = {
        "program_type": "python",
        "entrypoint": f"tests.support.programs:{function}",
        "signature": {
            "inputs": [{"name": name, "type": kind} for name, kind in inputs.items()],
            "outputs": [{"name": "result", "type": "string"}],
        },
        **more,
    }
    headers = keys.bearer() if keys is not None else {}
    answer = service.client.put(f"/programs/{program_id}", json=body, headers=headers)
    assert answer.status_code in (200, 201), answer.text
