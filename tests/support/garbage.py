"""Holds back the collection of garbage while tests are imported: it would be a third of that time.

What is imported stays, and there is so much of it that a collection would go on to cost as much amid the tests.
"""

import gc

gc.disable()


def resume_without_what_is_there() -> None:
    """Collects garbage from now on, among what is made later."""
    gc.freeze()
    gc.enable()
