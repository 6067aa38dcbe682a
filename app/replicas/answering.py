"""Answers the questions of other replicas: beside the API, with its keys, its guards and its metrics left out."""

import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.replicas.questions import Question
from app.replicas.replica import Replica

if TYPE_CHECKING:
    from app.services import Services

PREFIX: Final = "/replica/"
HEADER: Final = "x-replica-token"
"""The header with the supervisor's token."""
_HEADER: Final = HEADER.encode()

_log = structlog.stdlib.get_logger("poolshift.replicas")


class Answering:
    """An ASGI application for the other replicas alone. To anybody else its paths are unknown ones."""

    def __init__(self, replica: Replica, services: "Services", questions: Mapping[str, Question[Any, Any]]) -> None:
        """Takes the `questions` that it answers, by name."""
        self._replica = replica
        self._services = services
        self._questions = questions
        self._token = replica.machine.token.encode()

    def takes(self, scope: Scope) -> bool:
        """Tells if a request is another replica's question, which the supervisor's token proves."""
        if not scope["path"].startswith(PREFIX):
            return False
        presented = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        return hmac.compare_digest(presented, self._token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the rollout in force that others have told of. It waits for no database before that."""
        request = Request(scope, receive)
        question = self._questions.get(scope["path"].removeprefix(PREFIX))
        if question is None:
            await Response(status_code=404)(scope, receive, send)
            return
        self._replica.hear()
        try:
            response = Response(await question.told(self._services, await request.body()))
        except Exception:
            _log.exception("a question of another replica has no answer", question=question.name)
            response = Response(status_code=500)
        await response(scope, receive, send)
