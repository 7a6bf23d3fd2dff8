"""Attacks on the store, the run and their files: see ``__main__``."""
