"""``micro-rm doctor``: check this machine and recommend changes."""
