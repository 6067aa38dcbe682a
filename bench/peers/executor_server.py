"""FastAPI with a ProcessPoolExecutor: what one writes without a library for it. `POST /execute`."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The executor lives as long as the service."""
    with ProcessPoolExecutor(environment.workers()) as app.state.executor:
        yield


app = FastAPI(lifespan=lifespan)
_program = environment.program()


def run(inputs: dict[str, Any]) -> Any:
    """In a worker."""
    return _program(**inputs)


@app.post("/execute")
async def execute(call: Call) -> Answer:
    """Runs the program once."""
    loop = asyncio.get_running_loop()
    return Answer(outputs=await loop.run_in_executor(app.state.executor, run, call.inputs))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=environment.port(), access_log=False, log_level="error")
