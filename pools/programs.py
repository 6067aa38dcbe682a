"""A program as a pool sees it."""

from pools.definitions import Definition


class Program:
    """A definition under a name. `key` is unique: an id that is deleted and made anew gets another."""

    def __init__(self, key: str, program_id: str, definition: Definition) -> None:
        self.key = key
        self.id = program_id
        self.definition = definition

    def __repr__(self) -> str:
        return f"<Program {self.key} {self.id!r}>"
