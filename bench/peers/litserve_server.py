"""LitServe: FastAPI in front, a queue, worker processes. `POST /predict`."""

from typing import Any

import litserve
from pydantic import BaseModel

from bench.peers import environment


class Call(BaseModel):
    """A request: LitServe takes the type of `decode_request`'s argument for it."""

    inputs: dict[str, Any]


class Program(litserve.LitAPI):  # type: ignore[misc] # installed in the bench's own environment alone
    """Runs the program."""

    def setup(self, device: str) -> None:
        self._program = environment.program()

    def decode_request(self, request: Call) -> Any:
        return request.inputs

    def predict(self, x: Any) -> Any:
        return self._program(**x)

    def encode_response(self, output: Any) -> Any:
        return {"outputs": output}


if __name__ == "__main__":  # its processes import this module again
    server = litserve.LitServer(Program(), accelerator="cpu", devices=1, workers_per_device=environment.workers())
    server.run(host="127.0.0.1", port=environment.port(), log_level="error", generate_client_file=False)
