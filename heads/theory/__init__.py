"""Numerical checks of Theorem 3.2, the irreducible error of a single Bradley-Terry model.

Array names carry their shape: X prompts, P response pairs of a prompt, K groups of people,
D feature width. Losses and entropies are in nats.
"""
