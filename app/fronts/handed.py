"""All that goes with a worker from one process to another, as a message."""

from collections.abc import Callable

from app.fronts.messages import Loan
from app.fronts.named import name_of, named_program
from pools.process.process import Handed, WorkerProcess
from poolshift.worker.definitions import Definition


def loan_of(lease: int, process: WorkerProcess, known: Handed, number_of: Callable[[Definition], int]) -> Loan:
    """Makes the message about a worker that has been handed over; `number_of` names its definitions."""
    return Loan(
        lease=lease,
        pid=process.pid,
        generation=process.generation,
        load_timeout_s=process.load_timeout_s,
        revision=known.revision,
        definitions=[(number_of(definition), is_loaded) for definition, is_loaded in known.definitions],
        definitions_size=known.definitions_size,
        ended_id=known.ended_id,
        ended_program=name_of(known.ended_program),
        left_by=name_of(known.left_by),
    )


def handed_of(loan: Loan, definition_of: Callable[[int], Definition]) -> Handed:
    """Reads what a message says of a worker; `definition_of` finds its definitions."""
    return Handed(
        loan.revision,
        [(definition_of(number), is_loaded) for number, is_loaded in loan.definitions],
        loan.definitions_size,
        loan.ended_id,
        named_program(loan.ended_program),
        named_program(loan.left_by),
    )
