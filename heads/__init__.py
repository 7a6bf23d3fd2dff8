"""Features to reward: heads, router, Hedge, methods and their evaluation. JAX, never torch.

Array names carry their shape: N rows, B rows of a batch, D feature width, K reward heads,
A attributes, S draws of the stage-2 budget, P prompts, R bootstrap resamples.
"""
