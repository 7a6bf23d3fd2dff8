"""Features to reward: heads, router, Hedge, methods and their evaluation. JAX, never torch.

To learn how a reward is trained, read six files in this order; ``stages.train`` calls them:

1. ``configs/train.py``: the configuration, one field per setting.
2. ``heads/run_data.py``: from the configuration to rows, labelled draws and a ``Problem``.
3. ``heads/training.py``: the loss of a batch, the optimiser, and a whole run.
4. ``heads/epochs.py``: the loop over epochs and steps that every method uses.
5. ``heads/methods/mixture.py``: a method, which fits a ``Problem`` and predicts.
6. ``heads/checkpoint.py``: fitted methods as files.

Array names carry their shape: N rows, B rows of a batch, D feature width, K reward heads,
A attributes, S draws of the stage-2 budget, P prompts, T training seeds; in training T steps,
E epochs, and S also the members of a sweep.
"""
