"""Trained runs in use: raw text in, rewards out."""
