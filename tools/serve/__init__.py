"""Attacks on the service, and exports inside other tools."""
