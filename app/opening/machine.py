"""Opens what makes one service of the replicas of a machine."""

from typing import TYPE_CHECKING

from app.opening.opening import Opening
from app.replicas.acts import ACTS
from app.replicas.answering import Answering
from app.replicas.machine import WholeMachine
from app.replicas.told import LOOKS
from app.services import Services

if TYPE_CHECKING:
    from app.application import Application


def open_machine(opening: Opening) -> WholeMachine:
    """Makes what asks all replicas of the machine. It asks none before `answer_others`."""
    replica = opening.replica
    if replica is None:
        return WholeMachine(None, None)
    # Imported here, since a service that is one process asks nobody and does without the HTTP client.
    from app.replicas.peers import Peers  # noqa: PLC0415

    peers = Peers(replica)
    opening.at_end(peers.aclose)
    return WholeMachine(replica, peers)


def answer_others(app: "Application", services: Services) -> None:
    """Asks the other replicas from now on, if there are any, and answers them."""
    services.machine.begin(services)
    if app.state.replica is not None:
        questions = {question.name: question for question in (*LOOKS, *ACTS)}
        app.state.answering = Answering(app.state.replica, services, questions)
