"""FastAPI on uvicorn with several workers, the program called in them: what one writes first. `POST /execute`.

A coroutine calls the program, so that each process runs one call at a time, as a worker of a pool does; many, if the
program is a coroutine function. FastAPI would run a plain function in a thread, which costs more than a trivial one.
"""

import inspect
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from bench.peers import environment


class Call(BaseModel):
    """A request."""

    inputs: dict[str, Any]


class Answer(BaseModel):
    """The answer to a call."""

    outputs: dict[str, Any]


app = FastAPI()
_program = environment.program()
_is_async = inspect.iscoroutinefunction(_program)


@app.post("/execute")
async def execute(call: Call) -> Answer:
    """Runs the program once."""
    returned = _program(**call.inputs)
    return Answer(outputs=await returned if _is_async else returned)


if __name__ == "__main__":
    uvicorn.run(
        f"{__spec__.name}:app",
        host="127.0.0.1",
        port=environment.port(),
        workers=environment.workers(),
        access_log=False,
        log_level="error",
    )
