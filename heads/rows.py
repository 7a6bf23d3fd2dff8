"""Rows of preference pairs as training reads them."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from .matmul import take_rows


class Rows(NamedTuple):
    """Training or validation rows: chosen minus rejected, and what the router reads."""

    delta_NxD: Array
    router_input_NxD: Array

    def take(self, rows_B: Array) -> Rows:
        """Some rows, in the order asked for."""
        return Rows(take_rows(self.delta_NxD, rows_B), take_rows(self.router_input_NxD, rows_B))
