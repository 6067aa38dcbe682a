"""The reference pages say what is so: each is compared with the code, or its examples are run."""
