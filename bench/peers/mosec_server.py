"""mosec: a front end in Rust, Python workers behind it. `POST /inference`."""

from typing import Any

import mosec

from bench.peers import environment


class Program(mosec.Worker):  # type: ignore[misc] # installed in the bench's own environment alone
    """Runs the program; mosec reads and writes the JSON, as its default is."""

    def __init__(self) -> None:
        self._program = environment.program()

    def forward(self, data: Any) -> Any:
        return {"outputs": self._program(**data["inputs"])}


if __name__ == "__main__":  # its processes import this module again; address and port come by its own flags
    server = mosec.Server()
    server.append_worker(Program, num=environment.workers())
    server.run()
