"""The half of the client that does I/O, for asyncio."""
