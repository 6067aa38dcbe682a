"""Evidence for or against the canary: pure functions and small state, no I/O, no clock of its own."""
