"""`poolshift programs` and `init`: programs, from a folder of one's own to a run."""
