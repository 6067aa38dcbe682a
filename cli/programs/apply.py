"""`poolshift programs apply`: makes the programs of a service those that files describe."""

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.errors import ExitCode, Refused, printable
from cli.output import AsJson, print_change, print_json
from cli.programs.differences import Difference, differences, state_difference
from cli.programs.files import Document, WrongDocument, documents_of, files_in
from cli.programs.run import OwnDefinition
from cli.service import Service, on_service
from poolshift.client import programs

_ATTEMPTS = 3
"""Attempts at a program that others change at the same time."""
_RESULTS = ("created", "updated", "unchanged", "failed")


@dataclass(slots=True)
class Outcome:
    """The outcome of one document, as `--json` shows it."""

    place: str
    id: str | None = None
    session_id: str | None = None
    result: str = "skipped"
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
    """Makes programs what the files say: all of them or, if one cannot be, none (exit code 1 then; all are checked)."""
    documents = [document for file in files_in(paths) for document in documents_of(file)]
    outcomes = Application(service, session, pool_version, is_dry=dry_run).outcomes(documents)
    for outcome in outcomes:
        _tell(outcome, is_dry=dry_run, as_json=as_json)
    if as_json:
        print_json([outcome.view() for outcome in outcomes])
    counts = Counter(outcome.result for outcome in outcomes)
    if not as_json:
        told = ", ".join(f"{counts[result]} {result}" for result in _RESULTS)
        if counts["skipped"]:
            told += f", {counts['skipped']} skipped"
        print(f"{_state(counts, is_dry=dry_run)}{told}")
    if counts["failed"]:
        raise typer.Exit(ExitCode.REFUSED)


def _state(counts: Counter[str], *, is_dry: bool) -> str:
    if is_dry:
        return "dry run, nothing is changed: "
    return "nothing is changed: " if counts["failed"] else ""


@dataclass(slots=True)
class _Work:
    """A document that is to be applied, and its program as it was."""

    document: Document
    outcome: Outcome
    before: dict[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        """The program for the request, which asks for the revision that was seen."""
        seen = 0 if self.before is None else self.before["revision"]
        return {**self.document.content, "expected_revision": seen}


class Application:
    """Applies all documents by one request, which changes all programs or none. Each error is told with its line."""

    def __init__(self, service: Service, session: str | None, pool_version: str | None, *, is_dry: bool) -> None:
        """With a `pool_version` of "v2" the documents are V2's own definitions of programs that are there."""
        self._service = service
        self._session = session
        self._pool_version = pool_version
        self._is_dry = is_dry
        self._places: dict[tuple[str | None, str], str] = {}

    def outcomes(self, documents: list[Document | WrongDocument]) -> list[Outcome]:
        """Applies the documents. If one is wrong or refused, the others are checked, and nothing is changed.

        Raises:
            CommandFailed: the service does not answer, or refuses all of them at once.
        """
        done, work = [], []
        for document in documents:
            outcome = Outcome(document.place())
            done.append(outcome)
            named = self._named(document, outcome)
            if named is not None:
                work.append(_Work(named, outcome))
        is_dry = self._is_dry or len(work) < len(done)
        while work and not self._apply(work, is_dry=is_dry):
            is_dry, work = True, [one for one in work if not one.outcome.errors]
        return done

    def _named(self, document: Document | WrongDocument, outcome: Outcome) -> Document | None:
        """Returns a document that is a program, under a name that no document before has."""
        try:
            if isinstance(document, Document):
                self._name(document, outcome)
                return document
            _failed(outcome, str(document))
        except WrongDocument as wrong:
            _failed(outcome, str(wrong))
        return None

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

    def _apply(self, work: list[_Work], *, is_dry: bool) -> bool:
        """Makes the request, again if others change a program meanwhile; False if a program is refused."""
        for attempt in range(1, _ATTEMPTS + 1):
            for one in work:
                one.before = self._current(one)
            if any(one.outcome.errors for one in work):
                return False
            bodies = [one.body() for one in work]
            request = programs.apply(bodies, session_id=self._session, pool_version=self._pool_version, dry_run=is_dry)
            try:
                applied = self._service.ask(request)["items"]
            except Refused as refusal:
                if refusal.code != "stale_revision" or attempt == _ATTEMPTS:
                    return self._refused(work, refusal)
                continue
            for one, item in zip(work, applied, strict=True):
                self._note(one, item, is_applied=self._is_dry or not is_dry)
            return True
        return False

    def _refused(self, work: list[_Work], refusal: Refused) -> bool:
        """Notes the errors of the programs that are refused. Raises Refused if it is about none of them."""
        for error in refusal.errors:
            at = error["at"].split(".")
            if at[:2] != ["body", "programs"] or not at[2:3] or not at[2].isdecimal():
                raise refusal
            one, members = work[int(at[2])], at[3:]
            code = error.get("code", refusal.code)
            told = ": ".join(part for part in (code, ".".join(members), error["message"]) if part)
            _failed(one.outcome, f"{one.document.place(members or ['id'])}: {told}")
        if not refusal.errors:
            raise refusal
        return False

    def _note(self, one: _Work, item: dict[str, Any], *, is_applied: bool) -> None:
        after, before, outcome = item["program"], one.before, one.outcome
        if not is_applied:
            return
        outcome.revision, outcome.result = after["revision"], item["result"]
        if before is not None and outcome.result == "updated":
            state = state_difference(self._saved_state(outcome, before), one.document.content.get("state"))
            outcome.changes = [*differences(before, after), *state]

    def _current(self, one: _Work) -> dict[str, Any] | None:
        """The program as it is; a global one is none of the session's. An id that no path can have is an error."""
        outcome = one.outcome
        try:
            shown = programs.show(str(outcome.id), session_id=outcome.session_id, pool_version=self._pool_version)
            program: dict[str, Any] = self._service.ask(shown)
        except (Refused, ValueError) as error:
            if isinstance(error, Refused) and error.exit_code is ExitCode.NOT_ALLOWED:
                raise
            if not isinstance(error, Refused) or error.code != "program_not_found":
                _failed(outcome, f"{one.document.place()}: {error}")
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


def _failed(outcome: Outcome, error: str) -> None:
    outcome.result = "failed"
    outcome.errors.append(error)


def _tell(outcome: Outcome, *, is_dry: bool, as_json: bool) -> None:
    for error in outcome.errors:
        print(f"poolshift: {printable(error)}", file=sys.stderr, flush=True)
    if not as_json and not outcome.errors:
        note = f"revision {outcome.revision}" + (", dry run" if is_dry else "")
        if outcome.result == "skipped":
            note = "as it was"
        lines = [line for change in outcome.changes for line in (change.member, *change.lines())]
        print_change(outcome.result, f"{outcome.id} ({note})", lines)
