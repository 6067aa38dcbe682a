"""DSPy programs and their language models, inside a worker that has DSPy installed."""
