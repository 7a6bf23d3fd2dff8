"""Studies of one setting each: heads, budget, temperature, pruning, agreement between seeds."""
