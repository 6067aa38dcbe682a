"""Decides who may ask: API keys, hosts, and bounds of bodies before a key is read."""
