"""Programs of a help desk, which wait for an answer from elsewhere and compute next to nothing."""

import asyncio


async def answer(question: str) -> str:
    """The answer to a question, after as long as an API takes for it."""
    await asyncio.sleep(0.05)
    return f"You asked: {question}"
