"""`poolshift programs apply`: makes the programs of a service those that files describe."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import CommandFailed, ExitCode, Refused, printable
from cli.output import AsJson, print_change, print_json
from cli.programs.differences import Difference, differences, state_difference
from cli.programs.files import Document, WrongDocument, documents_of, files_in
from cli.programs.run import OwnDefinition
from cli.service import Service, on_service
from poolshift.client import programs

_ATTEMPTS = 3
"""Attempts at a program that others change at the same time."""
_ENDS = (ExitCode.UNREACHABLE, ExitCode.NOT_ALLOWED)
"""Failures that the next program would have too."""
_RESULTS = ("created", "updated", "unchanged", "failed")


@dataclass(slots=True)
class Outcome:
    """The outcome of one document, as `--json` shows it."""

    place: str
    id: str | None = None
    session_id: str | None = None
    result: str = "failed"
    revision: int | None = None
    changes: list[Difference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """Shows the outcome as JSON."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return {**shown, "changes": [change._asdict() for change in self.changes]}


@on_service
def apply_programs(
    service: Service,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE|DIR...",
            help="YAML or JSON, or folders with such files; - reads YAML from standard input.",
            allow_dash=True,
        ),
    ],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show what would change, stop.")] = False,
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The session that the programs belong to; without it they are global."),
    ] = None,
    pool_version: OwnDefinition = None,
    as_json: AsJson = False,
) -> None:
    """Creates and changes programs so that they are as the files say (exit code 1 if one fails; all are tried)."""
    documents = [document for file in files_in(paths) for document in documents_of(file)]
    application = Application(service, session, pool_version, is_dry=dry_run)
    try:
        for outcome in application.outcomes(documents):
            _tell(outcome, is_dry=dry_run, as_json=as_json)
    finally:
        if as_json:
            print_json([outcome.view() for outcome in application.done])
    counts = Counter(outcome.result for outcome in application.done)
    if not as_json:
        told = ", ".join(f"{counts[result]} {result}" for result in _RESULTS)
        print(f"dry run, nothing is changed: {told}" if dry_run else told)
    if counts["failed"]:
        raise typer.Exit(ExitCode.REFUSED)


class Application:
    """Applies one document after the other. A document that fails keeps no other from being tried."""

    def __init__(self, service: Service, session: str | None, pool_version: str | None, *, is_dry: bool) -> None:
        """With a `pool_version` of "v2" the documents are V2's own definitions of programs that are there."""
        self._service = service
        self._session = session
        self._pool_version = pool_version
        self._is_dry = is_dry
        self._places: dict[tuple[str | None, str], str] = {}
        self.done: list[Outcome] = []

    def outcomes(self, documents: list[Document | WrongDocument]) -> Iterator[Outcome]:
        """Applies the documents and yields each outcome.

        Raises:
            CommandFailed: the service does not answer, or refuses the key.
        """
        for document in documents:
            outcome = Outcome(document.place())
            self.done.append(outcome)
            try:
                self._try(document, outcome)
            except CommandFailed as failure:
                if failure.exit_code in _ENDS:
                    raise
                outcome.errors += _errors(document, failure)
            yield outcome

    def _try(self, document: Document | WrongDocument, outcome: Outcome) -> None:
        try:
            if isinstance(document, Document):
                self._name(document, outcome)
                self._apply(document, outcome)
            else:
                outcome.errors.append(str(document))
        except WrongDocument as wrong:
            outcome.errors.append(str(wrong))
        except ValueError as error:  # an id that no path can have
            outcome.errors.append(f"{document.place()}: {error}")

    def _name(self, document: Document, outcome: Outcome) -> None:
        """Finds the name that no document before has. Raises WrongDocument."""
        program_id, session = document.content.get("id"), document.content.get("session_id")
        if not isinstance(program_id, str):
            raise WrongDocument(document.place(["id"]), "a program needs an id, which is text")
        if session is not None and (not isinstance(session, str) or self._session not in (None, session)):
            raise WrongDocument(document.place(["session_id"]), f"{session!r} is not the session {self._session!r}")
        outcome.id, outcome.session_id = program_id, self._session or session
        place = document.place(["id"])
        first = self._places.setdefault((outcome.session_id, program_id), place)
        if first is not place:
            raise WrongDocument(place, f"the program {program_id!r} is at {first} already")

    def _apply(self, document: Document, outcome: Outcome) -> None:
        """Puts a program, unless others change it between the look at it and the change."""
        for attempt in range(1, _ATTEMPTS + 1):
            before = self._current(outcome)
            change = programs.put(
                str(outcome.id),
                document.content,
                session_id=outcome.session_id,
                pool_version=self._pool_version,
                expected_revision=None if before is None else before["revision"],
                only_if_new=before is None,
                dry_run=self._is_dry,
            )
            try:
                after = self._service.ask(change)
            except Refused as refusal:
                if refusal.code != "stale_revision" or attempt == _ATTEMPTS:
                    raise
                continue
            outcome.revision = after["revision"]
            outcome.result = "created" if before is None else "unchanged"
            if before is not None and before["revision"] != after["revision"]:
                outcome.result = "updated"
                state = state_difference(self._saved_state(outcome, before), document.content.get("state"))
                outcome.changes = [*differences(before, after), *state]
            return

    def _current(self, outcome: Outcome) -> dict[str, Any] | None:
        """The program as it is; a global one is none of the session's."""
        try:
            shown = programs.show(str(outcome.id), session_id=outcome.session_id, pool_version=self._pool_version)
            program: dict[str, Any] = self._service.ask(shown)
        except Refused as refusal:
            if refusal.code != "program_not_found":
                raise
            return None
        return program if program["session_id"] == outcome.session_id else None

    def _saved_state(self, outcome: Outcome, before: dict[str, Any]) -> Any:
        """The state of the program as it was, which views leave out and revisions have."""
        if not before["has_state"]:
            return None
        former = programs.revisions(
            str(outcome.id),
            session_id=outcome.session_id,
            pool_version=self._pool_version,
            before=before["revision"] + 1,
            limit=1,
        )
        found = self._service.items(former)
        return found[0]["definition"]["state"] if found else None


def _errors(document: Document | WrongDocument, failure: CommandFailed) -> list[str]:
    """The errors of a refusal, each with its line."""
    errors = []
    if isinstance(failure, Refused) and isinstance(document, Document):
        for error in failure.errors:
            at = error["at"].split(".")
            members = at[1:] if at[0] in ("body", "query") else ["id"]
            told = ": ".join(part for part in (failure.code, ".".join(members), error["message"]) if part)
            errors.append(f"{document.place(members)}: {told}")
    return errors or [f"{document.place()}: {failure}"]


def _tell(outcome: Outcome, *, is_dry: bool, as_json: bool) -> None:
    for error in outcome.errors:
        print(f"poolshift: {printable(error)}", file=sys.stderr, flush=True)
    if not as_json and not outcome.errors:
        note = f"revision {outcome.revision}" + (", dry run" if is_dry else "")
        lines = [line for change in outcome.changes for line in (change.member, *change.lines())]
        print_change(outcome.result, f"{outcome.id} ({note})", lines)
