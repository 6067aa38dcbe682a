"""Shadow calls: copies of V1's calls on V2, compared with V1's outputs, and scores by the programs' own metrics."""
