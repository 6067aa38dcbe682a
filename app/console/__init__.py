"""The ops pages under `/console`: one glance at the rollout, two clicks to roll back."""
