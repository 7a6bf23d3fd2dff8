"""Helpers that every other part may use.

They import none of the other parts, and nothing heavier than the standard library at import time;
only ``columns`` needs rich.
"""
