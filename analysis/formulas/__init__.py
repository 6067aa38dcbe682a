"""The formulas of the evidence: odds, bets, and the intervals that they give."""
