"""What the tests stand on: a real service in a process of its own, and programs that misbehave on demand."""
