"""Traces of simulated ramps, and the policies that are compared on them."""
