"""A front: a process that has clients' connections, runs what it is granted, and hands all else to the service.

    python -P -m app.fronts.front PLAN

PLAN is a `FrontPlan` as JSON. The service hands it connections. It ends with the service, or after it has been told to,
once its last connection has closed.
"""

import asyncio
import os
import signal
import socket
import sys

import msgspec
import uvloop

from app.execute.connections import Limits
from app.fronts.front_stream import FrontStream
from app.fronts.gate import Gate
from app.fronts.handover import Handover
from app.fronts.messages import FrontPlan
from app.logs import configure_logs
from poolshift.worker import linux


async def _serve(plan: FrontPlan) -> None:
    limits = Limits(head_s=plan.head_s, body_s=plan.body_s, answer_s=plan.answer_s, unread_bytes=plan.unread_bytes)
    gate = Gate(plan.gate_fd, plan.fronts)
    os.close(plan.gate_fd)
    stream = FrontStream(limits, plan, gate)
    handover = Handover(socket.socket(fileno=plan.handover_fd), stream.take, stream.take_worker)
    stream.move_by(handover.give)
    await asyncio.get_running_loop().create_unix_connection(  # type: ignore[type-var]  # it has what a protocol needs
        lambda: stream,
        sock=socket.socket(fileno=plan.stream_fd),
    )
    await stream.ended.wait()
    handover.close()
    await stream.aclose()


def main() -> None:
    """Serves until the service is gone, or has no more use for it."""
    plan = msgspec.json.decode(sys.argv[1], type=FrontPlan)
    linux.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the service does, which drains first
    linux.open_many_files()
    linux.keep_freed_memory()
    configure_logs(plan.log_format, plan.log_level)  # type: ignore[arg-type]
    uvloop.run(_serve(plan))


if __name__ == "__main__":
    main()
