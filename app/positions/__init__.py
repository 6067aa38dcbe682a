"""The pools in the positions V1 and V2: makes, compares, reloads and rotates them."""
