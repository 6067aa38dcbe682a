"""mosec with msgspec for its JSON, as Poolshift has it: mosec's default is json's, indented. `POST /inference`."""

from typing import Any

import mosec
import msgspec

from bench.peers import environment, mosec_server


class Program(mosec_server.Program):
    """Runs the program, and overrides the two methods that mosec has for this."""

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def deserialize(self, data: bytes) -> Any:
        return msgspec.json.decode(data)


if __name__ == "__main__":  # its processes import this module again; address and port come by its own flags
    server = mosec.Server()
    server.append_worker(Program, num=environment.workers())
    server.run()
