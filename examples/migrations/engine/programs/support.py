"""Programs of a help desk. They wait for an answer from elsewhere, as of a language model, and compute next to nothing."""

import asyncio


async def answer(question: str) -> str:
    """The answer to a question, after as long as an API takes for it."""
    await asyncio.sleep(0.05)
    return f"You asked: {question}"
