"""Trained runs in use: scoring of raw text, the HTTP service, exports to other tools."""
