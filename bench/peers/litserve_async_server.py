"""LitServe with coroutines: worker processes that run many calls at once. `POST /predict`."""

from typing import Any

import litserve
from pydantic import BaseModel

from bench.peers import environment


class Call(BaseModel):
    """A request: LitServe takes the type of `decode_request`'s argument for it."""

    inputs: dict[str, Any]


class Program(litserve.LitAPI):  # type: ignore[misc] # installed in the bench's own environment alone
    """Awaits the program."""

    def setup(self, device: str) -> None:
        self._program = environment.program()

    async def decode_request(self, request: Call) -> Any:
        return request.inputs

    async def predict(self, x: Any) -> Any:
        return await self._program(**x)

    async def encode_response(self, output: Any) -> Any:
        return {"outputs": output}


if __name__ == "__main__":  # its processes import this module again
    api = Program(enable_async=True)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=environment.workers())
    server.run(host="127.0.0.1", port=environment.port(), log_level="error", generate_client_file=False)
