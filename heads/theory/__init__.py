"""Theorem 3.2 (the irreducible error of one Bradley-Terry model), checked in numbers.

Array names carry their shape: X prompts, P response pairs of a prompt, K groups of people,
D feature width. Everything measured is in nats.
"""
