"""The base of the tests: a real service in a process of its own, and programs that misbehave on demand."""
