"""A person's regret over their comparisons as a small SVG: numbers only, no text of anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 260, 52, 40, 16


def regret_svg(curve: Sequence[float], heads: int) -> str:
    """The regret in nats after every comparison, beside ``log K``, which Bayes' rule keeps to.

    >>> regret_svg([0.5, 0.75], 4).count("<polyline")
    1
    """
    bound = math.log(heads)
    points = [0.0, *curve]
    low, high = min(points), max(*points, bound)
    span = (high - low) or 1.0

    def x(place: float) -> float:
        return LEFT + (WIDTH - LEFT - 12) * place / max(1, len(points) - 1)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / span

    line = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in enumerate(points))
    marks = "".join(
        f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>'
        for value in sorted({low, points[-1], high})
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11"><title>Regret against the best head</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<line x1="{LEFT}" x2="{WIDTH - 12}" y1="{y(bound):.1f}" y2="{y(bound):.1f}" '
        f'stroke="#6b7280" stroke-dasharray="5 4"/>'
        f'<text x="{WIDTH - 12}" y="{y(bound) - 5:.1f}" text-anchor="end">log {heads}</text>'
        f'<polyline points="{line}" fill="none" stroke="#1d4ed8" stroke-width="2"/>{marks}'
        f'<text x="{LEFT}" y="{HEIGHT - 10}">0</text>'
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 10}" text-anchor="end">{len(curve)} comparisons'
        "</text>"
        f'<text x="{(LEFT + WIDTH) // 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        "regret in nats against the best head in hindsight</text></svg>"
    )
