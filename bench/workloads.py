"""The workloads of the scenarios: a program, its inputs, and the right outputs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_TYPE_NAMES = {int: "integer", str: "string"}


@dataclass(frozen=True)
class Workload:
    """One function of `bench.programs`, called with the same inputs each time."""

    function: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    is_idempotent: bool = False

    @property
    def entrypoint(self) -> str:
        """`module:function`."""
        return f"bench.programs:{self.function}"

    @property
    def body(self) -> bytes:
        """The request, the same bytes for every contender."""
        return json.dumps({"inputs": self.inputs}).encode()

    @property
    def definition(self) -> dict[str, Any]:
        """The body of `POST /programs`."""
        sides = {
            side: [{"name": name, "type": _TYPE_NAMES[type(value)]} for name, value in fields.items()]
            for side, fields in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        return {
            "id": self.function,
            "program_type": "python",
            "entrypoint": self.entrypoint,
            "signature": sides,
            "idempotent": self.is_idempotent,
        }


TRIVIAL = Workload("increment", {"number": 41}, {"number": 42})
IDEMPOTENT = replace(TRIVIAL, is_idempotent=True)
"""As shadow calls need it."""
BLOCKING = Workload("block", {"number": 41}, {"number": 42})
PAUSING = Workload("pause", {"number": 41}, {"number": 42})
AWAITING = Workload("await_answer", {"number": 41}, {"number": 42})
COMPUTING = Workload("compute", {"number": 41}, {"number": 42})
PAYLOAD = Workload("echo", {"text": "x" * 100_000}, {"text": "x" * 100_000})
