"""The contract on disk: a content-addressed map from token ids to vectors, and pair tables.

A leaf: NumPy, h5py and xxhash only. Embedding writes it, training reads it.
"""
