"""Ids of executions that nobody can guess, for the price of a slice each."""

import os
from typing import Final

ID_LENGTH: Final = 32
"""Hexadecimal digits, and so 128 random bits."""
_IDS_AT_ONCE: Final = 256


class ExecutionIds:
    """A stock of random ids. The kernel is asked once for 256 of them."""

    def __init__(self) -> None:
        self._stock = ""
        self._position = 0

    def next(self) -> str:
        """Takes an id that was never taken before."""
        position = self._position
        if position == len(self._stock):
            self._stock = os.urandom(_IDS_AT_ONCE * ID_LENGTH // 2).hex()
            position = 0
        self._position = end = position + ID_LENGTH
        return self._stock[position:end]
