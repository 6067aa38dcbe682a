"""The hot lane: an execute call from its bytes to its answer."""
