"""Measures V1 against V2, and both against their peers."""
