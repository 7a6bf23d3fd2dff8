"""micro-rm doctor: what this machine has, and what to change."""
