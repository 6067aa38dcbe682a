"""`poolshift rollout`, `judge` and `shadow`: the flag, the ramp, and the evidence."""
