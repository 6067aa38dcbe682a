"""The typed client, for threads and for asyncio by the same tests."""
