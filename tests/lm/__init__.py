"""DSPy programs: on the small model, and on endpoints that misbehave."""
