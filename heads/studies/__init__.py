"""What a setting does: sweeps over K, budget, temperature, pruning and seeds, each with a curve."""
