"""Figures and traces that tell the versions apart."""
