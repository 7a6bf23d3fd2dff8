"""The on-disk store: a content-addressed map from token ids to vectors, and pair tables.

Embedding writes a store, training reads it. The package needs NumPy, h5py and xxhash only, so a
store can be read and checked on a machine without torch or JAX.
"""
