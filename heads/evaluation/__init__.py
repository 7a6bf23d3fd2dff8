"""Predictions to numbers with intervals, to a report that one can trust and look at."""
